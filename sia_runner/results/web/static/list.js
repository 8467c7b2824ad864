// All runs, with search, filters and order. The address names them, so that going back finds the same list.

import { badge, drawing, empty, fault, h, replace, say } from "./dom.js";
import { follow, get, once } from "./data.js";
import { count, dollars, many, scored } from "./format.js";
import { spark } from "./spark.js";
import { table } from "./table.js";
import { moment } from "./time.js";

const PAGE = 100;
const CHOICES = [["status", "Status"], ["task", "Task"], ["mode", "Mode"]];
const ORDERS = [["", "newest first"], ["name", "by name"], ["val", "best val first"], ["test", "best test first"], ["cost", "highest cost first"]];

export function showList(main, address) {
  document.title = "Runs · SIA Runner";
  const given = new URLSearchParams(address);
  const asked = Object.fromEntries(["q", "status", "task", "mode", "order"].map((name) => [name, given.get(name) ?? ""]));
  let start = 0, typing = 0, waiting = 0, ended = false, shown = "";
  const [trouble, found] = [h("div", {}), h("div", { id: "runs" })];
  const runs = table("run-table", COLUMNS, (row) => row.path);
  const turns = h("div", {});
  const draw = drawing();

  const refresh = once(async () => {
    clearTimeout(waiting);
    try {
      const answer = await get("runs", { ...asked, start, most: PAGE });
      if (answer.total === 1 && answer.rows[0]?.path === ".") location.replace("#/run/."); // the folder is a run
      for (const [name] of CHOICES) offer(selects[name], answer.choices[name], asked[name]);
      draw(found, !answer.rows.length && [answer.total], () => answer.rows.length ? [runs.element, turns]
        : empty(answer.total ? "No run fits." : "There are no runs here yet. They appear when they start.", { id: "no-runs" }));
      replace(trouble);
      runs.update(caption(answer), answer.rows, answer.whole && shown === JSON.stringify([asked, start]));
      shown = JSON.stringify([asked, start]);
      if (!answer.whole && !ended) waiting = setTimeout(refresh, 200); // many runs are read in slices, the newest first
      draw(turns, [answer.found, answer.start], () => pages(answer));
    } catch (error) {
      replace(trouble, fault(error));
    }
  });

  function choose(name, value) {
    asked[name] = value;
    start = 0;
    const kept = new URLSearchParams(Object.entries(asked).filter(([, one]) => one)).toString();
    history.replaceState(null, "", kept ? `#/?${kept}` : "#/");
    document.querySelector(".home").href = location.hash;
    return refresh().then(() => say(found.querySelector("caption, .empty")?.textContent ?? ""));
  }

  function pages(answer) {
    if (answer.found <= PAGE) return null;
    const go = (by) => () => { start = Math.max(0, start + by); refresh().then(() => scrollTo(0, 0)); };
    return h("p", { class: "row pages" },
      h("button", { id: "earlier", type: "button", disabled: answer.start === 0, onclick: go(-PAGE) }, "Previous"),
      h("button", { id: "later", type: "button", disabled: answer.start + PAGE >= answer.found, onclick: go(PAGE) }, "Next"));
  }

  const select = (name, options) => h("select", { id: `filter-${name}`, onchange: (event) => choose(name, event.target.value) }, options);
  const selects = Object.fromEntries(CHOICES.map(([name]) => [name, select(name)]));
  const order = select("order", ORDERS.map(([value, said]) => h("option", { value, selected: value === asked.order }, said)));
  const search = h("input", { type: "search", id: "search", autocomplete: "off", value: asked.q, placeholder: "name, task, seed=3, host", oninput: (event) => {
    clearTimeout(typing);
    typing = setTimeout(() => choose("q", event.target.value), 150);
  } });
  replace(main, h("h1", {}, "Runs"),
    h("form", { role: "search", onsubmit: (event) => event.preventDefault() },
      h("label", { class: "grows" }, "Search", search), ...CHOICES.map(([name, said]) => h("label", {}, said, selects[name])), h("label", {}, "Order", order)),
    trouble, found);
  const end = follow("", refresh);
  return () => { ended = true; clearTimeout(typing); clearTimeout(waiting); end(); };
}

function caption(answer) {
  const what = answer.found === answer.total ? many(answer.total, "run") : `${count(answer.found)} of ${many(answer.total, "run")}`;
  return what + (answer.rows.length < answer.found ? `, ${answer.start + 1} to ${answer.start + answer.rows.length}` : "") + (answer.whole ? "" : ", still reading");
}

function offer(select, choices, chosen) {
  const wanted = [["", ""], ...Object.entries(choices)];
  if (wanted.join("\n") === select.dataset.drawn) return;
  select.dataset.drawn = wanted.join("\n");
  if (chosen && !(chosen in choices)) wanted.push([chosen, 0]); // asked for in the address
  replace(select, wanted.map(([choice, number]) => h("option", { value: choice, selected: choice === chosen }, choice ? `${choice} (${count(number)})` : "all")));
}

const COLUMNS = [
  { name: "Run", text: true, cell: (row) => {
    const above = row.path === "." ? "" : row.path.slice(0, row.path.lastIndexOf("/") + 1);
    return h("a", { href: `#/run/${encodeURIComponent(row.path)}`, id: `run-${row.path}` }, above ? h("span", { class: "above" }, above) : null, row.name);
  } },
  { name: "Status", cell: (row) => badge(row.status) },
  { name: "Task", cell: (row) => row.task || "–" },
  { name: "Mode", cell: (row) => h("span", { class: "whole" }, (row.mode || "–") + (row.directed ? " · directed" : "")) },
  { name: "Seed", number: true, cell: (row) => row.seed ?? "–" },
  { name: "Accepted", number: true, cell: (row) => row.generations ? `${row.accepted} of ${row.generations}` : "–" },
  { name: "Generations", cell: (row) => spark(row.course) },
  { name: "Val", number: true, cell: (row) => scored(row.val) },
  { name: "Test", number: true, cell: (row) => scored(row.test) },
  { name: "Cost", number: true, cell: (row) => row.calls ? dollars(row.usd) : "–" },
  { name: "Changed", number: true, cell: (row) => moment(row.updated) },
];
