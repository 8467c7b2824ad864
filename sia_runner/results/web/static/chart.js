// The chart of scores, and below it which lever each generation pulled. What it shows stands in the table too.

import { s } from "./dom.js";
import { across, below, extent, linear, ticks } from "./axes.js";
import { fixed } from "./format.js";

const PLOT = { top: 26, bottom: 268 };
const LANES = [["harness", 300], ["weights", 322]]; // y of their middles
const HEIGHT = 364;

// Val of each generation with its interval; the line is the incumbent. `choose(n)` when a generation is clicked.
export function scoreChart(generations, run, width, choose) {
  const box = { left: 66, right: width - 12, ...PLOT };
  const [low, high] = [generations[0].n, generations.at(-1).n];
  const x = linear([low - 0.5, high + 0.5], box.left, box.right);
  const band = (box.right - box.left) / (high - low + 1);
  const scored = generations.filter((one) => one.val);
  const steps = scored.length ? ticks(...extent(scored.flatMap((one) => [one.val.value, ...(one.val.ci95 ?? [])])), 5) : ticks(0, 1, 5);
  const y = linear([steps.values[0], steps.values.at(-1)], box.bottom, box.top);
  const parts = [
    s("text", { class: "name", x: box.left, y: 13 }, `${run.metric} on val${run.higher_is_better ? "" : ", lower is better"}`),
    across(box, y, steps), below(box, x, low, high, HEIGHT - 18),
    s("text", { class: "name", x: box.right, y: HEIGHT - 5, "text-anchor": "end" }, "generation"),
    s("path", { class: "best", d: incumbent(scored, x, y, band, box) }),
    lanes(generations, x, band, box),
    generations.map((one) => column(one, x(one.n), y, band, box, choose))];
  return s("svg", { class: "chart", viewBox: `0 0 ${width} ${HEIGHT}`, width, height: HEIGHT, role: "img", id: "score-chart", "aria-label": said(scored, run.metric) }, parts.flat());
}

function said(scored, metric) {
  const newest = scored.at(-1);
  if (!newest) return "No generation has a score yet.";
  return `${metric} on val of ${scored.length} generations; the newest, generation ${newest.n}: ${fixed(newest.val.value)}. The table of generations has all values.`;
}

// Steps lie between generations, where no interval is drawn.
function incumbent(scored, x, y, band, box) {
  const accepted = scored.filter((one) => one.status === "accepted");
  const line = accepted.map((one, at) => at ? `H${x(one.n) - band / 2}V${y(one.val.value)}` : `M${x(one.n)} ${y(one.val.value)}`);
  return line.length ? `${line.join("")}H${box.right}` : "";
}

// All that belongs to one generation, with its words for whoever points at it.
function column(one, x, y, band, box, choose) {
  const lever = one.algorithm ? `${one.lever}, ${one.algorithm}` : one.lever;
  const words = [`Generation ${one.n}, ${one.status}${lever ? ` · ${lever}` : ""}`, one.title, one.val ? fixed(one.val.value) : "", one.reason].filter(Boolean).join("\n");
  return s("g", { class: `column ${one.status === "accepted" ? "accepted" : "other"}`, onclick: () => choose(one.n) },
    s("title", {}, words),
    s("rect", { class: "reach", x: x - band / 2, width: band, y: box.top, height: HEIGHT - box.top - 34 }),
    one.val ? whisker(one.val.ci95, x, y) : null,
    one.val ? s("circle", { class: "mark", cx: x, cy: y(one.val.value), r: 5 }) : cross(one, x, box));
}

function whisker(bounds, x, y) {
  if (!bounds) return null;
  const [low, high] = bounds.map(y);
  return s("path", { class: "whisker", d: `M${x - 4} ${low}H${x + 4}M${x} ${low}V${high}M${x - 4} ${high}H${x + 4}` });
}

// Without a score: failed, or not there yet.
function cross(one, x, box) {
  if (["under way", "cut"].includes(one.status)) return s("circle", { class: "going", cx: x, cy: box.bottom - 8, r: 4 });
  return s("path", { class: "none", d: `M${x - 4} ${box.bottom - 12}l8 8m0 -8l-8 8` });
}

function lanes(generations, x, band, box) {
  const width = Math.max(1.5, Math.min(band * 0.7, 64));
  return LANES.map(([lever, middle]) => [
    s("line", { class: "lane", x1: box.left, x2: box.right, y1: middle, y2: middle }),
    s("text", { x: box.left - 8, y: middle + 4, "text-anchor": "end" }, lever),
    generations.filter((one) => one.lever === lever || one.lever === "both").map((one) =>
      s("rect", { class: `pulled ${lever} ${one.status === "accepted" ? "accepted" : "other"}`, x: x(one.n) - width / 2, y: middle - 6, width, height: 12, rx: Math.min(3, width / 2) }))]).flat(2);
}
