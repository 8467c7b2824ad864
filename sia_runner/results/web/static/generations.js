// Chart and table of generations.

import { badge, drawing, empty, h, replace, s } from "./dom.js";
import { scoreChart } from "./chart.js";
import { count, dollars, many, scored, seconds } from "./format.js";
import { table } from "./table.js";
import { moment } from "./time.js";

const SHOWN = 200; // in the table at first

export function generations(body, choose) {
  const draw = drawing();
  const [chart, more] = [h("div", {}), h("div", {})];
  const panel = h("div", { class: "panel" }, chart);
  const state = { run: null, all: false, known: 0 };
  let rows = null;

  function update(run) {
    state.run = run;
    const found = run.generations;
    rows ??= table("generation-table", columns(choose), ([one]) => one.n);
    draw(body, found.length > 0, () => found.length ? [panel, more, rows.element] : empty("No generation has begun yet."));
    if (!found.length) return;
    plot();
    draw(more, [state.all || found.length <= SHOWN, found.length], () => state.all || found.length <= SHOWN ? null
      : h("p", {}, h("button", { type: "button", id: "all-generations", onclick: () => { state.all = true; update(state.run); } }, `Show all ${count(found.length)}`)));
    rows.update(many(found.length, "generation"), (state.all ? found : found.slice(-SHOWN)).map((one) => [one, one.n === run.best]), state.known > 0 && found.length === state.known + 1);
    state.known = found.length;
  }

  function plot() {
    const width = Math.max(240, Math.min(1200, Math.floor(chart.clientWidth))); // drawn as wide as it is shown: texts keep their size
    const shown = state.run.generations.map((one) => [one.n, one.status, one.lever, one.val, one.title, one.reason]);
    draw(chart, [width, shown], () => [scoreChart(state.run.generations, state.run, width, choose), legend()]);
  }

  const resized = new ResizeObserver(() => state.run?.generations.length && plot());
  resized.observe(chart);
  return { update, end: () => resized.disconnect() };
}

function legend() {
  const sample = (said, ...parts) => h("li", {}, s("svg", { class: "chart sample", viewBox: "0 0 26 14", width: 26, height: 14, "aria-hidden": "true" }, parts), said);
  return h("ul", { class: "legend" },
    sample("accepted", s("g", { class: "accepted" }, s("circle", { class: "mark", cx: 13, cy: 7, r: 5 }))),
    sample("not accepted", s("g", { class: "other" }, s("circle", { class: "mark", cx: 13, cy: 7, r: 5 }))),
    sample("no score", s("path", { class: "none", d: "M9 3l8 8m0 -8l-8 8" })),
    sample("incumbent", s("path", { class: "best", d: "M1 11H13V4H25" })),
    sample("95% interval", s("path", { class: "whisker", d: "M9 2H17M13 2V12M9 12H17" })));
}

function origin(one) {
  return (one.partner ? ` (merges ${one.parent} and ${one.partner})` : "") + (one.model ? ` (by ${one.model})` : "");
}

function columns(choose) {
  return [
    { name: "Generation", cell: ([one, best]) => [h("button", { class: "link", type: "button", id: `open-${one.n}`, onclick: () => choose(one.n) }, String(one.n)), best ? h("span", { class: "best-mark" }, " best") : null] },
    { name: "Status", cell: ([one]) => one.step ? [badge(one.status, one.step), " ", one.status === "under way" && one.since ? h("span", { class: "quiet" }, moment(one.since, "since")) : null] : badge(one.status) },
    { name: "Lever", cell: ([one]) => one.algorithm ? `${one.lever}, ${one.algorithm}` : one.lever || "–" },
    { name: "Change", text: true, line: true, cell: ([one]) => `${one.title || "–"}${origin(one)}` },
    { name: "Val", number: true, cell: ([one]) => scored(one.val) },
    { name: "Why", text: true, line: true, cell: ([one]) => one.reason || "–" },
    { name: "Cost", number: true, cell: ([one]) => one.usage ? dollars(one.usage.usd) : "–" },
    { name: "Time", number: true, cell: ([one]) => seconds(Object.values(one.seconds).reduce((sum, value) => sum + value, 0)) },
  ];
}
