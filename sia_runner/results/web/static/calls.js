// A question, the model calls made for it, and the text of a call; each is asked for when it is opened.

import { badge, empty, fault, h, keyed, replace } from "./dom.js";
import { get } from "./data.js";
import { count, many, seconds } from "./format.js";

const opened = new WeakMap(); // element of a question -> shows the calls of another state of it

// `old`: the element of the same question before something changed; what was opened in it stays.
export function question(row, path, place, old) {
  const element = old ?? h("details", { class: "question" }, h("summary", {}), h("div", { class: "inside" }, h("div", {}), h("div", {})));
  const [summary, inside] = element.children;
  replace(summary, badge(row.kind, row.kind.replaceAll("_", " ")), h("span", { class: "unit" }, row.number < 0 ? "calls that named no question" : row.unit),
    h("span", { class: "answered" }, row.prediction), h("span", { class: "quiet" }, many(row.calls, "call")));
  if (!old) element.addEventListener("toggle", () => { if (element.open) opened.get(element)(); });
  opened.set(element, loading(row, path, place, ...inside.children));
  if (element.open) opened.get(element)();
  return element;
}

function loading(row, path, place, answer, list) {
  let loaded = false;
  return async () => {
    if (loaded) return;
    loaded = true;
    try {
      const { calls } = row.calls ? await get("run/calls", { path, place, number: row.number }) : { calls: [] };
      replace(answer, row.prediction ? h("p", { class: "said" }, "Answered ", h("code", {}, row.prediction)) : null, calls.length ? null : empty("No model was called."));
      keyed(list, calls, (one) => one.at, (one) => call(one, path, place));
    } catch (error) {
      loaded = false;
      replace(answer, fault(error));
    }
  };
}

function call(one, path, place) {
  const text = h("div", { class: "inside" });
  const tokens = one.tokens.every((number) => number !== null) ? `${one.tokens.map(count).join(" + ")} tokens` : "";
  let asked = false;
  return h("details", { class: "call", ontoggle: async (event) => {
    if (!event.target.open || asked) return;
    asked = true;
    try {
      const whole = await get("run/call", { path, place, at: one.at });
      replace(text, whole.messages.map(message));
    } catch (error) {
      asked = false;
      replace(text, fault(error));
    }
  } }, h("summary", {}, h("span", { class: "unit" }, one.model || "call"), h("span", { class: one.error ? "fault" : "quiet" }, one.error || one.finish || "no end"),
    h("span", { class: "quiet" }, [seconds(one.seconds), tokens].filter(Boolean).join(" · "))), text);
}

function message(one) {
  return h("div", { class: one.role === "answer" ? "message answer" : "message" }, h("h4", {}, one.role), h("pre", { tabindex: "0", "aria-label": one.role }, one.text || "(empty)"));
}
