// How training went: reward, KL, entropy, length and drift by step.

import { drawing, empty, h, s } from "./dom.js";
import { across, below, extent, linear, ticks } from "./axes.js";
import { fixed } from "./format.js";

const NAMES = {
  reward: "Reward", kl: "KL to the reference", entropy: "Entropy", length: "Length in tokens",
  drift_kl: "Drift: KL of sampler to learner", drift_share: "Drift: share outside [.5, 2]",
};
const [WIDTH, HEIGHT] = [360, 190];

export function training(body) {
  const draw = drawing();
  return (curves, run) => draw(body, [curves, run.generations.filter((one) => curves[one.n]).map((one) => [one.algorithm, one.training])], () => {
    const found = Object.entries(curves);
    if (!found.length) return empty("No weights were trained.");
    return found.reverse().map(([n, named]) => [h("h3", {}, heading(n, named, run)),
      h("div", { class: "charts" }, Object.entries(named).map(([name, points]) => figure(name, points)))]).flat();
  });
}

function heading(n, named, run) {
  const one = run.generations.find((generation) => generation.n === Number(n));
  const asked = one?.training?.asked;
  const last = Math.max(...Object.values(named).map((points) => points.at(-1)[0]));
  const stopped = one?.training?.stopped ? `, stopped: ${one.training.stopped}` : "";
  return `Generation ${n}${one?.algorithm ? `, ${one.algorithm}` : ""}: step ${last}${asked ? ` of ${asked}` : ""}${stopped}`;
}

function figure(name, points) {
  const [step, value] = points.at(-1);
  return h("figure", {}, h("figcaption", {}, h("strong", {}, NAMES[name] ?? name), h("span", { class: "quiet" }, `${precise(value)} at step ${step}`)), curve(name, points));
}

// Drift is rounding most often, and fixed digits would hide it.
function precise(value) {
  return value !== 0 && Math.abs(value) < 0.0005 ? value.toExponential(1).replace("-", "−") : fixed(value);
}

function curve(name, points) {
  const box = { left: 54, right: WIDTH - 10, top: 10, bottom: HEIGHT - 30 };
  const [low, high] = [points[0][0], points.at(-1)[0]];
  const steps = ticks(...extent(points.map(([, value]) => value)), 4);
  const x = linear(low === high ? [low - 1, high + 1] : [low, high], box.left, box.right);
  const y = linear([steps.values[0], steps.values.at(-1)], box.bottom, box.top);
  const path = points.map(([step, value], at) => `${at ? "L" : "M"}${x(step).toFixed(1)} ${y(value).toFixed(1)}`).join("");
  const label = `${name}: ${precise(points[0][1])} at step ${low}, ${precise(points.at(-1)[1])} at step ${high}`;
  return s("svg", { class: "chart", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "aria-label": label },
    across(box, y, steps), below(box, x, low, high, HEIGHT - 12),
    s("path", { class: "curve", d: path }), s("circle", { class: "newest", cx: x(high), cy: y(points.at(-1)[1]), r: 3.5 }));
}
