// Figures as people read them.

import { h } from "./dom.js";

export function interval(score) {
  if (!score) return "–";
  return `${fixed(score.value)}${bounds(score)}`;
}

// The value, and its interval smaller beside it.
export function scored(score) {
  return score ? [h("span", { class: "value" }, fixed(score.value)), h("span", { class: "bounds" }, bounds(score))] : "–";
}

export function fixed(value) {
  const size = Math.abs(value);
  if (size < 0.0005) return "0.000"; // no minus sign before a zero
  return size >= 1000 ? value.toLocaleString("en", { maximumFractionDigits: 0 }) : value.toFixed(size >= 100 ? 1 : 3);
}

function bounds(score) {
  return score.ci95 ? ` [${score.ci95.map(fixed).join(", ")}]` : "";
}

export function signed(value) {
  return `${value < 0 ? "−" : "+"}${fixed(Math.abs(value))}`;
}

export function dollars(usd) {
  if (usd === null || usd === undefined) return "not known";
  return usd !== 0 && usd < 0.1 ? `$${usd.toFixed(4)}` : `$${usd.toFixed(2)}`;
}

export function count(number) {
  return number === null || number === undefined ? "–" : number.toLocaleString("en");
}

export function many(number, one, more = `${one}s`) {
  return `${count(number)} ${number === 1 ? one : more}`;
}

export function seconds(total) {
  if (total === null || total === undefined) return "–";
  if (total < 90) return `${total.toFixed(1)} s`;
  return total < 5400 ? `${(total / 60).toFixed(1)} min` : `${(total / 3600).toFixed(1)} h`;
}

export function bytes(size) {
  return size < 1024 ? `${size} B` : size < 1 << 20 ? `${(size / 1024).toFixed(1)} KiB` : `${(size / (1 << 20)).toFixed(1)} MiB`;
}
