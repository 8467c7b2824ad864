// What a generation changed, and what it said about it.

import { h, replace } from "./dom.js";
import { get } from "./data.js";

export function details(body, path) {
  const state = { chosen: null, against: null, run: null, drawn: "", options: "" };
  const of = h("select", { id: "change-of", onchange: (event) => { choose(Number(event.target.value)); } });
  const against = h("select", { id: "change-against", onchange: (event) => { state.against = event.target.value; draw(); } });
  const found = h("div", { id: "change-found" });
  replace(body, h("div", { class: "row" }, h("label", {}, "Generation", of), h("label", {}, "Compared with", against)), found);

  function update(run) {
    state.run = run;
    const numbers = run.generations.map((one) => one.n);
    if (state.chosen === null && numbers.length) choose(run.best ?? numbers[0]);
    if (state.options !== numbers.join()) {
      state.options = numbers.join();
      offer();
    }
    draw();
  }

  function choose(n) {
    state.chosen = n;
    const parent = state.run?.generations.find((one) => one.n === n)?.parent;
    state.against = parent === null || parent === undefined ? "" : String(parent);
    offer();
    draw();
  }

  function offer() {
    const all = state.run?.generations ?? [];
    replace(of, all.map((one) => h("option", { value: one.n, selected: one.n === state.chosen }, `${one.n} ${one.title}`.slice(0, 60))));
    replace(against, h("option", { value: "", selected: state.against === "" }, "nothing"),
      all.filter((one) => one.n !== state.chosen).map((one) => h("option", { value: one.n, selected: String(one.n) === state.against }, one.n)));
  }

  async function draw() {
    const one = state.run?.generations.find((generation) => generation.n === state.chosen);
    if (!one) return;
    const wanted = JSON.stringify([state.chosen, state.against, one.status, one.step]);
    if (wanted === state.drawn) return;
    state.drawn = wanted;
    try {
      const [diff, said] = await Promise.all([get("run/diff", { path, new: state.chosen, old: state.against }), get("run/generation", { path, n: state.chosen })]);
      if (wanted === state.drawn) replace(found, shown(diff, said));
    } catch (error) {
      replace(found, h("p", { class: "fault", role: "alert" }, error.message));
    }
  }
  return { update, choose };
}

function shown(diff, said) {
  const files = diff.files.map((file) => [
    h("h3", {}, `${file.path}: ${file.kind}, +${file.added} −${file.removed}`),
    file.note ? h("p", {}, file.note) : h("pre", { class: "diff", tabindex: "0", "aria-label": `Difference of ${file.path}` }, file.lines.map(line)),
    file.cut ? h("p", { class: "quiet" }, `${file.cut} more lines`) : null]).flat();
  return [h("p", {}, said.rationale), ...(files.length ? files : [h("p", { class: "quiet" }, "The program is the same.")]),
    fold("What the proposer noted", said.improvement), fold("decision.json", said.decision === "{}" ? "" : said.decision)];
}

function line(text) {
  const kind = text.startsWith("+") ? "added" : text.startsWith("-") ? "removed" : text.startsWith("@@") ? "place" : null;
  return h("span", { class: kind }, text);
}

function fold(name, text) {
  return text ? h("details", {}, h("summary", {}, name), h("pre", { tabindex: "0" }, text)) : null;
}
