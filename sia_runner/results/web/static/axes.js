// What charts share: scales, ticks at round values, lines and labels of axes.

import { s } from "./dom.js";

// Round values that cover `low` to `high` in about `most` steps, and the digits they need.
// `least`: the smallest difference that is worth a line.
export function ticks(low, high, most, least = 0.002) {
  const rough = Math.max((high - low) / most, least);
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * [1, 2, 2.5, 5, 10].find((one) => one * power >= rough * 0.999);
  const [first, last] = [Math.floor(low / step + 0.02), Math.ceil(high / step - 0.02)];
  const values = Array.from({ length: Math.min(Math.max(last - first, 1), 50) + 1 }, (_, at) => (first + at) * step);
  const digits = Math.max(0, -Math.floor(Math.log10(step) + 1e-9) + (step / power === 2.5 ? 1 : 0));
  return { values, digits };
}

export function extent(values) {
  return values.reduce(([low, high], value) => [Math.min(low, value), Math.max(high, value)], [Infinity, -Infinity]);
}

// `box`: {left, right, top, bottom}, in pixels of the chart.
export function linear([low, high], from, to) {
  return (value) => from + ((value - low) / (high - low || 1)) * (to - from);
}

export function across(box, scale, { values, digits }) {
  return values.map((value) => [
    s("line", { class: "grid", x1: box.left, x2: box.right, y1: scale(value), y2: scale(value) }),
    s("text", { x: box.left - 8, y: scale(value) + 4, "text-anchor": "end" }, label(value, digits))]).flat();
}

// Whole numbers below: generations, steps. As many as have room.
export function below(box, scale, low, high, under) {
  const room = Math.max(2, Math.floor((box.right - box.left) / 56));
  const step = [1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 100000].find((one) => (high - low) / one <= room) ?? 1e6;
  const found = [];
  for (let value = low === 1 || step === 1 ? low : Math.ceil(low / step) * step; value <= high; value = low === 1 && value === 1 && step > 1 ? step : value + step) found.push(value);
  return found.map((value) => s("text", { x: scale(value), y: under, "text-anchor": "middle" }, label(value, 0)));
}

function label(value, digits) {
  const shown = Math.abs(value) < 1e-12 ? 0 : value;
  return shown.toLocaleString("en", { minimumFractionDigits: digits, maximumFractionDigits: digits }).replace("-", "−");
}
