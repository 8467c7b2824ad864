// All runs, with search and filters.

import { badge, h, replace, say, table } from "./dom.js";
import { follow, get, once } from "./data.js";
import { count, dollars, interval, when } from "./format.js";

const PAGE = 100;

export function showList(main) {
  document.title = "Runs · SIA Runner";
  const asked = { q: "", status: "", task: "", mode: "", start: 0 };
  const found = h("div", { id: "runs" });
  const selects = Object.fromEntries(["status", "task", "mode"].map((name) =>
    [name, h("select", { id: `filter-${name}`, onchange: (event) => choose(name, event.target.value) })]));
  const refresh = once(async () => {
    try {
      const answer = await get("runs", { ...asked, most: PAGE });
      for (const [name, select] of Object.entries(selects)) offer(select, answer.choices[name], asked[name]);
      if (answer.total === 1 && answer.rows[0]?.path === ".") location.replace("#/run/."); // the folder is a run
      replace(found, shown(answer));
    } catch (error) {
      replace(found, h("p", { class: "fault", role: "alert" }, error.message));
    }
  });

  function choose(name, value) {
    asked[name] = value;
    asked.start = 0;
    refresh().then(() => say(found.querySelector("caption")?.textContent ?? ""));
  }

  function shown(answer) {
    const rows = answer.rows;
    const what = answer.found === answer.total ? `${count(answer.total)} runs` : `${count(answer.found)} of ${count(answer.total)} runs`;
    const part = rows.length < answer.found ? `, ${answer.start + 1} to ${answer.start + rows.length}` : "";
    if (!rows.length) return [h("p", { id: "no-runs" }, answer.total ? "No run fits." : "There are no runs here yet. They appear when they start.")];
    return [table(what + part, COLUMNS, rows, "run-table"), pages(answer)];
  }

  function pages(answer) {
    if (answer.found <= PAGE) return null;
    const go = (by) => () => { asked.start = Math.max(0, asked.start + by); refresh(); };
    return h("p", { class: "row" },
      h("button", { id: "earlier", type: "button", disabled: answer.start === 0, onclick: go(-PAGE) }, "Previous"),
      h("button", { id: "later", type: "button", disabled: answer.start + PAGE >= answer.found, onclick: go(PAGE) }, "Next"));
  }

  let waiting = 0;
  const search = h("input", { type: "search", id: "search", autocomplete: "off", oninput: (event) => {
    clearTimeout(waiting);
    waiting = setTimeout(() => choose("q", event.target.value), 150);
  } });
  replace(main, h("h1", {}, "Runs"),
    h("form", { role: "search", onsubmit: (event) => event.preventDefault() },
      h("label", {}, "Search", search),
      ...Object.entries(selects).map(([name, select]) => h("label", {}, name[0].toUpperCase() + name.slice(1), select))),
    found);
  const end = follow("", refresh);
  return () => { clearTimeout(waiting); end(); };
}

function offer(select, choices, chosen) {
  const wanted = ["", ...choices];
  if (wanted.join("\n") === [...select.options].map((option) => option.value).join("\n")) return;
  replace(select, wanted.map((choice) => h("option", { value: choice, selected: choice === chosen }, choice || "all")));
}

const COLUMNS = [
  { name: "Run", text: true, cell: (row) => h("a", { href: `#/run/${encodeURIComponent(row.path)}`, id: `run-${row.path}` }, row.path === "." ? row.name : row.path) },
  { name: "Status", cell: (row) => badge(row.status) },
  { name: "Task", cell: (row) => row.task },
  { name: "Mode", cell: (row) => row.mode },
  { name: "Seed", number: true, cell: (row) => row.seed ?? "–" },
  { name: "Generations", number: true, cell: (row) => `${row.accepted} of ${row.generations} accepted` },
  { name: "Val [95% CI]", number: true, cell: (row) => interval(row.val) },
  { name: "Test [95% CI]", number: true, cell: (row) => interval(row.test) },
  { name: "Cost", number: true, cell: (row) => row.calls ? dollars(row.usd) : "–" },
  { name: "Changed", cell: (row) => when(row.updated) },
];
