// Moments, and how long they are past; both go on while nothing else on the page changes.

import { h } from "./dom.js";

// `given`: unix seconds, or ISO 8601. `how`: "ago", or "since" for what is under way.
export function moment(given, how = "ago") {
  const at = typeof given === "number" ? new Date(given * 1000) : new Date(given);
  if (Number.isNaN(at.getTime())) return h("span", {}, String(given));
  const iso = at.toISOString();
  return h("time", { datetime: iso, title: at.toLocaleString(), "data-how": how }, said(at, how));
}

function said(at, how) {
  const past = Math.max(0, Math.floor((Date.now() - at.getTime()) / 1000));
  if (how === "since") return clock(past);
  if (past < 60) return "now";
  if (past < 3600) return `${Math.floor(past / 60)} min ago`;
  return past < 86400 ? `${Math.floor(past / 3600)} h ago` : day(at);
}

function clock(past) {
  const two = (number) => String(number).padStart(2, "0");
  const rest = `${two(Math.floor(past / 60) % 60)}:${two(past % 60)}`;
  return past < 3600 ? rest : `${Math.floor(past / 3600)}:${rest}`;
}

function day(at) {
  const two = (number) => String(number).padStart(2, "0");
  return `${at.getFullYear()}-${two(at.getMonth() + 1)}-${two(at.getDate())}`;
}

setInterval(() => {
  for (const shown of document.querySelectorAll("time[data-how]")) {
    const now = said(new Date(shown.dateTime), shown.dataset.how);
    if (shown.textContent !== now) shown.textContent = now;
  }
}, 1000);
