// What a generation changed, what it said about it, and what came of it.

import { badge, empty, fault, h, replace } from "./dom.js";
import { get } from "./data.js";
import { difference } from "./diff.js";
import { count, interval, seconds } from "./format.js";

export function changes(body, path) {
  const state = { chosen: null, against: "", run: null, drawn: "", options: "" };
  const of = h("select", { id: "change-of", onchange: (event) => choose(Number(event.target.value)) });
  const against = h("select", { id: "change-against", onchange: (event) => { state.against = event.target.value; draw(); } });
  const found = h("div", { id: "change-found" });
  const whole = [h("div", { class: "row" }, h("label", { class: "grows" }, "Generation", of), h("label", {}, "Compared with", against)), found];

  function update(run) {
    const first = !state.run?.generations.length && run.generations.length;
    if (!state.run && !first) replace(body, empty("No generation has begun yet."));
    state.run = run;
    if (first) replace(body, whole);
    if (state.chosen === null && run.generations.length) choose(run.best ?? run.generations[0].n);
    offer();
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
    const options = JSON.stringify([all.map((one) => [one.n, one.title]), state.chosen, state.against]);
    if (options === state.options) return; // a list that is open stays open
    state.options = options;
    replace(of, all.map((one) => h("option", { value: one.n, selected: one.n === state.chosen }, `${one.n} ${one.title}`.slice(0, 70))));
    replace(against, h("option", { value: "", selected: state.against === "" }, "nothing"),
      all.filter((one) => one.n !== state.chosen).map((one) => h("option", { value: one.n, selected: String(one.n) === state.against }, `generation ${one.n}`)));
  }

  async function draw() {
    const one = state.run?.generations.find((generation) => generation.n === state.chosen);
    if (!one) return;
    const wanted = JSON.stringify([one, state.against]);
    if (wanted === state.drawn) return;
    state.drawn = wanted;
    try {
      const [diff, said] = await Promise.all([get("run/diff", { path, new: one.n, old: state.against }), get("run/generation", { path, n: one.n })]);
      if (wanted === state.drawn) replace(found, verdict(one), said.rationale ? h("p", { class: "said" }, said.rationale) : null, difference(diff, state.against),
        fold("What the proposer noted", said.improvement), fold("Decision and its evidence", said.decision === "{}" ? "" : said.decision));
    } catch (error) {
      replace(found, fault(error));
    }
  }
  return { update, choose };
}

function verdict(one) {
  const facts = [["Verdict", [badge(one.status), one.reason ? ` ${one.reason}` : ""]], ["Val", interval(one.val)],
    ["Outcomes on val", Object.entries(one.outcomes).map(([kind, number]) => `${count(number)} ${kind}`).join(" · ")],
    ["Time", Object.entries(one.seconds).filter(([, time]) => time >= 0.05).map(([step, time]) => `${step} ${seconds(time)}`).join(" · ")]];
  return h("dl", { class: "facts" }, facts.filter(([, value]) => value).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))));
}

function fold(name, text) {
  return text ? h("details", { class: "fold" }, h("summary", {}, name), h("pre", { tabindex: "0" }, text)) : null;
}
