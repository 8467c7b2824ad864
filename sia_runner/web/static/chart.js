// Charts as SVG elements. What they show stands in a table beside them too.

import { s } from "./dom.js";

const HEIGHT = 260;
const EDGE = { left: 52, right: 14, top: 12, bottom: 30 };

function scales(x, y, width, height) {
  const along = (value) => EDGE.left + ((value - x[0]) / (x[1] - x[0] || 1)) * (width - EDGE.left - EDGE.right);
  const up = (value) => height - EDGE.bottom - ((value - y[0]) / (y[1] - y[0] || 1)) * (height - EDGE.top - EDGE.bottom);
  return { along, up };
}

function axes(x, y, { along, up }, width, height, digits) {
  const parts = [];
  for (let at = 0; at <= 4; at++) {
    const value = y[0] + ((y[1] - y[0]) * at) / 4;
    parts.push(s("line", { class: "axis", x1: EDGE.left, x2: width - EDGE.right, y1: up(value), y2: up(value) }),
      s("text", { x: EDGE.left - 6, y: up(value) + 4, "text-anchor": "end" }, value.toFixed(digits)));
  }
  const step = Math.max(1, Math.ceil((x[1] - x[0]) / (width / 60)));
  for (let value = x[0]; value <= x[1]; value += step) {
    parts.push(s("text", { x: along(value), y: height - 10, "text-anchor": "middle" }, String(value)));
  }
  return parts;
}

function range(values, least = 0) {
  const [low, high] = [values.reduce((a, b) => Math.min(a, b)), values.reduce((a, b) => Math.max(a, b))];
  const room = Math.max((high - low) * 0.08, least);
  return [low - room, high + room];
}

// Val of each generation with its interval; the line is the incumbent.
export function scoreChart(generations, metric) {
  const scored = generations.filter((one) => one.val);
  if (!scored.length) return null;
  const width = Math.max(320, Math.min(900, document.getElementById("main").clientWidth - 24)); // so that its text is as large as other text
  const x = [generations[0].n, Math.max(generations.at(-1).n, generations[0].n + 1)];
  const y = range(scored.flatMap((one) => [one.val.value, ...(one.val.ci95 ?? [])]), 0.01);
  const scale = scales(x, y, width, HEIGHT);
  const best = [];
  for (const one of scored.filter((one) => one.status === "accepted")) {
    if (best.length) best.push(`H${scale.along(one.n)}`);
    best.push(`${best.length ? "V" : `M${scale.along(one.n)} `}${scale.up(one.val.value)}`);
  }
  if (best.length) best.push(`H${scale.along(x[1])}`);
  const newest = scored.at(-1);
  const label = `${metric} on val of ${scored.length} generations; the newest, generation ${newest.n}: ${newest.val.value.toFixed(3)}. The table of generations has all values.`;
  return s("svg", { class: "chart", viewBox: `0 0 ${width} ${HEIGHT}`, role: "img", "aria-label": label, id: "score-chart" },
    axes(x, y, scale, width, HEIGHT, 2), s("path", { class: "best", d: best.join("") }),
    scored.map((one) => mark(one, scale)));
}

function mark(one, { along, up }) {
  const x = along(one.n);
  const bounds = one.val.ci95;
  return s("g", {},
    s("title", {}, `generation ${one.n}, ${one.status}: ${one.val.value.toFixed(3)}`),
    bounds ? s("line", { class: "whisker", x1: x, x2: x, y1: up(bounds[0]), y2: up(bounds[1]) }) : null,
    s("circle", { class: one.status === "accepted" ? "accepted" : "other", cx: x, cy: up(one.val.value), r: 4.5 }));
}

export function curveChart(name, points) {
  const [width, height] = [340, 170];
  const x = [points[0][0], Math.max(points.at(-1)[0], points[0][0] + 1)];
  const y = range(points.map(([, value]) => value), 1e-6);
  const scale = scales(x, y, width, height);
  const path = points.map(([step, value], at) => `${at ? "L" : "M"}${scale.along(step)} ${scale.up(value)}`).join("");
  const label = `${name}: ${points[0][1].toFixed(3)} at step ${points[0][0]}, ${points.at(-1)[1].toFixed(3)} at step ${points.at(-1)[0]}`;
  return s("svg", { class: "chart", viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": label },
    axes(x, y, scale, width, height, Math.abs(y[1]) < 10 ? 2 : 0), s("path", { class: "curve", d: path }));
}
