// Questions of a generation by outcome; the calls of one, and their full text, when they are asked for.

import { badge, h, replace, say } from "./dom.js";
import { get, once } from "./data.js";
import { bytes, count, seconds } from "./format.js";

const PAGE = 50;

export function trajectories(body, path) {
  const asked = { place: "", kind: "", q: "", start: 0 };
  const state = { drawn: "", options: "", timer: 0, ended: false };
  const place = h("select", { id: "answers-place", onchange: (event) => go({ place: event.target.value, kind: "", start: 0 }) });
  const search = h("input", { type: "search", id: "answers-search", autocomplete: "off", onchange: (event) => go({ q: event.target.value, start: 0 }) });
  const kinds = h("div", { class: "row", role: "group", "aria-label": "Outcome kinds" });
  const found = h("div", { id: "answers-found" });
  replace(body, h("div", { class: "row" }, h("label", {}, "Of", place), h("label", {}, "Question id holds", search)), kinds, found);

  function update(run) {
    const places = [...run.generations.map((one) => `gen_${one.n}`), ...run.tests.map((one) => `test/gen_${one.generation}`)];
    if (!places.length) return;
    asked.place ||= `gen_${run.best ?? run.generations.at(-1).n}`;
    if (state.options !== places.join()) {
      state.options = places.join();
      replace(place, places.map((name) => h("option", { value: name, selected: name === asked.place }, name)));
    }
    refresh();
  }

  function go(what) {
    Object.assign(asked, what);
    return refresh();
  }

  const refresh = once(async () => {
    clearTimeout(state.timer);
    try {
      const answer = await get("run/questions", { path, ...asked, most: PAGE });
      if (state.ended) return;
      const now = JSON.stringify([asked, answer]);
      if (now !== state.drawn) {
        state.drawn = now;
        replace(kinds, buttons(answer));
        keepOpen(found, () => replace(found, shown(answer)));
      }
      if (!answer.read.whole) state.timer = setTimeout(refresh, 300);
    } catch (error) {
      replace(found, h("p", { class: "fault", role: "alert" }, error.message));
    }
  });

  function buttons(answer) {
    const all = Object.values(answer.kinds).reduce((sum, value) => sum + value, 0);
    return [["", all], ...Object.entries(answer.kinds)].map(([kind, number]) =>
      h("button", { type: "button", id: `kind-${kind}`, "aria-pressed": String(asked.kind === kind), onclick: () => go({ kind, start: 0 }).then(() => say(`${count(number)} questions`)) },
        `${kind || "all"} ${count(number)}`));
  }

  function shown(answer) {
    const read = answer.read.whole ? "" : `, still reading: ${bytes(answer.read.bytes)} of ${bytes(answer.read.size)}`;
    const from = answer.total ? `${count(answer.start + 1)} to ${count(answer.start + answer.rows.length)} of ` : "";
    const turn = (by) => () => go({ start: Math.max(0, asked.start + by) });
    return [h("p", { class: "quiet" }, `${from}${count(answer.total)} questions${read}`),
      ...answer.rows.map((row) => question(row, path, asked.place)),
      answer.total > PAGE ? h("p", { class: "row" },
        h("button", { type: "button", id: "answers-earlier", disabled: answer.start === 0, onclick: turn(-PAGE) }, "Previous questions"),
        h("button", { type: "button", id: "answers-later", disabled: answer.start + PAGE >= answer.total, onclick: turn(PAGE) }, "Next questions")) : null];
  }
  return { update, end: () => { state.ended = true; clearTimeout(state.timer); } };
}

// What a reader opened stays as it is while the list around it is drawn anew.
function keepOpen(parent, drawing) {
  const open = [...parent.querySelectorAll("details[open][id]")];
  const active = document.activeElement;
  drawing();
  for (const old of open) document.getElementById(old.id)?.replaceWith(old);
  if (active?.isConnected && active !== document.activeElement) active.focus({ preventScroll: true });
}

function question(row, path, place) {
  const calls = h("div", {});
  const shown = row.number < 0 ? "calls that named no question" : row.unit;
  let loaded = -1;
  return h("details", { id: `question-${place}-${row.number}-${row.kind}`, ontoggle: async (event) => {
    if (event.target !== event.currentTarget || !event.target.open || loaded === row.calls) return;
    loaded = row.calls;
    try {
      const answer = row.calls ? await get("run/calls", { path, place, number: row.number }) : { calls: [] };
      replace(calls, row.prediction ? h("p", {}, "Answered: ", h("code", {}, row.prediction)) : null,
        answer.calls.length ? answer.calls.map((one) => call(one, path, place)) : h("p", { class: "quiet" }, "No model was called."));
    } catch (error) {
      replace(calls, h("p", { class: "fault", role: "alert" }, error.message));
    }
  } }, h("summary", {}, badge(row.kind), ` ${shown} · ${count(row.calls)} calls`), calls);
}

function call(one, path, place) {
  const text = h("div", {});
  const tokens = one.tokens.every((number) => number !== null) ? ` · ${one.tokens.map(count).join(" + ")} tokens` : "";
  let asked = false;
  return h("details", { ontoggle: async (event) => {
    if (!event.target.open || asked) return;
    asked = true;
    try {
      const whole = await get("run/call", { path, place, at: one.at });
      replace(text, whole.messages.map((message) => [h("h3", {}, message.role), h("pre", { tabindex: "0" }, message.text)]).flat());
    } catch (error) {
      replace(text, h("p", { class: "fault", role: "alert" }, error.message));
    }
  } }, h("summary", {}, `${one.model || "call"} · ${one.error || one.finish || "no end"} · ${seconds(one.seconds)}${tokens}`), text);
}
