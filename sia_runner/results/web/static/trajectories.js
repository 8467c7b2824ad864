// Questions of a generation by outcome. What was asked of a model for one, calls.js has.

import { drawing, empty, fault, h, keyed, replace, say } from "./dom.js";
import { question } from "./calls.js";
import { get, once } from "./data.js";
import { bytes, count, many } from "./format.js";

const PAGE = 25;

export function trajectories(body, path) {
  const asked = { place: "", kind: "", q: "", start: 0 };
  const state = { options: "", timer: 0, ended: false };
  const place = h("select", { id: "answers-place", onchange: (event) => go({ place: event.target.value, kind: "", start: 0 }) });
  const search = h("input", { type: "search", id: "answers-search", autocomplete: "off", oninput: (event) => {
    clearTimeout(state.typing);
    state.typing = setTimeout(() => go({ q: event.target.value, start: 0 }).then(told), 200);
  } });
  const [kinds, about, list, turns] = [h("div", { class: "row kinds", role: "group", "aria-label": "Outcome kinds" }), h("p", { class: "quiet" }), h("div", { class: "questions" }), h("div", {})];
  const draw = drawing();
  const found = h("div", { id: "answers-found" }, about, list, turns);
  const whole = [h("div", { class: "row" }, h("label", {}, "Generation", place), h("label", { class: "grows" }, "Question id holds", search)), kinds, found];
  const trouble = h("div", {});

  function update(run) {
    const places = [...run.generations.map((one) => `gen_${one.n}`), ...run.tests.map((one) => `test/gen_${one.generation}`)];
    draw(body, places.length > 0, () => places.length ? [whole, trouble] : empty("No generation has begun yet."));
    if (!places.length) return;
    asked.place ||= `gen_${run.best ?? run.generations.at(-1).n}`;
    if (state.options !== places.join()) {
      state.options = places.join();
      replace(place, places.map((name) => h("option", { value: name, selected: name === asked.place }, name.replace("test/gen_", "test of ").replace("gen_", ""))));
    }
    refresh();
  }

  function go(what) {
    Object.assign(asked, what);
    return refresh();
  }

  const told = () => say(about.textContent);

  const refresh = once(async () => {
    clearTimeout(state.timer);
    try {
      const answer = await get("run/questions", { path, ...asked, most: PAGE });
      if (state.ended) return;
      draw(kinds, [answer.kinds, asked.kind], () => buttons(answer));
      about.textContent = counted(answer);
      keyed(list, answer.rows, (row) => `${asked.place} ${row.number} ${row.kind}`, (row, old) => question(row, path, asked.place, old));
      draw(turns, [answer.total, answer.start], () => answer.total > PAGE ? pages(answer) : null);
      replace(trouble);
      if (!answer.read.whole) state.timer = setTimeout(refresh, 300);
    } catch (error) {
      replace(trouble, fault(error));
    }
  });

  function counted(answer) {
    const read = answer.read.whole ? "" : `, still reading: ${bytes(answer.read.bytes)} of ${bytes(answer.read.size)}`;
    if (!answer.total) return `No question${asked.q || asked.kind ? " fits" : " was answered yet"}${read}`;
    const part = answer.rows.length < answer.total ? `${count(answer.start + 1)} to ${count(answer.start + answer.rows.length)} of ` : "";
    return `${part}${many(answer.total, "question")}${read}`;
  }

  function buttons(answer) {
    const all = Object.values(answer.kinds).reduce((sum, value) => sum + value, 0);
    return [["", all], ...Object.entries(answer.kinds)].map(([kind, number]) =>
      h("button", { type: "button", class: "kind", id: `kind-${kind}`, "aria-pressed": String(asked.kind === kind), onclick: () => go({ kind, start: 0 }).then(told) },
        `${kind.replaceAll("_", " ") || "all"} `, h("span", { class: "number" }, count(number))));
  }

  function pages(answer) {
    const turn = (by) => () => go({ start: Math.max(0, asked.start + by) }).then(() => { told(); kinds.scrollIntoView({ block: "nearest" }); });
    return h("p", { class: "row pages" },
      h("button", { type: "button", id: "answers-earlier", disabled: answer.start === 0, onclick: turn(-PAGE) }, "Previous questions"),
      h("button", { type: "button", id: "answers-later", disabled: answer.start + PAGE >= answer.total, onclick: turn(PAGE) }, "Next questions"));
  }
  return { update, end: () => { state.ended = true; clearTimeout(state.timer); clearTimeout(state.typing); } };
}
