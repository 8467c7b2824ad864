// Logs that follow what is written to them.

import { drawing, empty, h, replace } from "./dom.js";
import { get, once } from "./data.js";
import { bytes } from "./format.js";

const KEPT = 400_000; // characters in the page
const PAUSE = 1000; // milliseconds

export function logs(body, path) {
  const state = { log: "", end: null, some: false, timer: 0, options: "", over: false };
  const choice = h("select", { id: "log", onchange: (event) => open(event.target.value) });
  const follows = h("input", { type: "checkbox", id: "log-follows", checked: true });
  const text = document.createTextNode("");
  const shown = h("pre", { id: "log-text", class: "log", tabindex: "0", role: "log", "aria-label": "Log", "aria-live": "off" }, text);
  const draw = drawing();
  const about = h("span", { class: "quiet" });
  const whole = [h("div", { class: "row" }, h("label", { class: "grows" }, "Log", choice), h("label", { class: "inline" }, follows, "Follow"), about), shown];

  const update = once(async () => {
    try {
      const found = (await get("run/logs", { path })).logs;
      const names = found.map((log) => `${log.path}${log.size ? "" : ", empty"}`);
      draw(body, found.length > 0, () => found.length ? whole : empty("Nothing is logged yet."));
      if (!found.length || names.join("\n") === state.options) return;
      state.options = names.join("\n");
      replace(choice, found.map((log, at) => h("option", { value: log.path, selected: log.path === state.log }, names[at])));
      if (!state.log) open((found.findLast((log) => log.size) ?? found[0]).path);
      choice.value = state.log;
    } catch (error) {
      about.textContent = error.message;
    }
  });

  function open(name) {
    Object.assign(state, { log: name, end: null });
    text.data = "";
    read();
  }

  const read = once(async () => {
    clearTimeout(state.timer);
    if (state.over || !state.log) return;
    const name = state.log;
    try {
      const piece = await get("run/log", { path, log: name, since: state.end });
      if (name === state.log) add(piece);
    } catch (error) {
      about.textContent = error.message;
    }
    if (!state.over) wait();
  });

  function wait() {
    clearTimeout(state.timer);
    state.timer = setTimeout(() => (follows.checked && !document.hidden ? read() : wait()), PAUSE);
  }

  function add(piece) {
    const more = piece.start === state.end;
    state.end = piece.end;
    about.textContent = `${bytes(piece.size)}${piece.start && !more ? ", the newest part of it" : ""}`;
    if (more && !piece.text) return;
    const bottom = shown.scrollHeight - shown.scrollTop - shown.clientHeight < 40;
    const before = more && state.some ? text.data : "";
    state.some = Boolean(before || piece.text);
    text.data = (before + piece.text).slice(-KEPT) || "(empty)";
    if (follows.checked && (bottom || !more)) shown.scrollTop = shown.scrollHeight;
  }

  return { update, end: () => { state.over = true; clearTimeout(state.timer); } };
}
