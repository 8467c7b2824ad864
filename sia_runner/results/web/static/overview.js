// What a run reached, what it cost, and how to go on with it.

import { drawing, h, s, say } from "./dom.js";
import { count, dollars, interval, many, scored, signed } from "./format.js";

export function overview(body) {
  const draw = drawing();
  return (run) => draw(body, { ...run, generations: run.generations.map((one) => [one.n, one.status, one.val]), jobs: [] }, () => [
    h("div", { class: "tiles" }, tiles(run)),
    run.resume ? h("div", { class: "command" }, h("span", {}, run.status === "waits" ? "Approve with" : "Continue with"), copied(run.resume, "resume")) : null,
    run.directions.length ? h("p", { class: "quiet" }, "Directed by a person: no fair arm of a comparison.") : null,
    run.directions.length ? h("ul", { id: "directions" }, run.directions.map((note) => h("li", {}, `Before generation ${note.n}${note.by ? `, ${note.by}` : ""}: ${note.text}`))) : null,
    h("dl", { class: "facts" }, facts(run).map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value))))]);
}

function tiles(run) {
  const total = run.spent.total ?? { usd: 0, tokens: 0, calls: 0 };
  const accepted = run.generations.filter((one) => one.status === "accepted").length;
  const judged = run.generations.filter((one) => !["under way", "cut"].includes(one.status)).length;
  const best = run.generations.find((one) => one.n === run.best);
  const going = run.spent.in_flight ? `${count(run.spent.in_flight)} under way` : "";
  const asked = total.calls || going;
  const so = run.counted ? "" : "still adding up";
  return [
    tile("Best val", best ? scored(best.val) : "–", best ? `generation ${best.n}` : "none accepted yet"),
    tile("Test", ...test(run)),
    tile("Generations", run.max_gen ? `${count(judged)} of ${count(run.max_gen)}` : count(judged), `${count(accepted)} accepted`, share(judged, run.max_gen, 101)),
    tile("Cost", asked ? dollars(total.usd) : "–", asked ? so || of(run, "usd", dollars) : so || "no model was called", share(total.usd, run.limits.usd)),
    asked ? tile("Model calls", count(total.calls), [of(run, "calls", count), so || going].filter(Boolean).join(", "), share(total.calls, run.limits.calls)) : null,
    asked ? tile("Tokens", count(total.tokens), of(run, "tokens", count), share(total.tokens, run.limits.tokens)) : null,
    tile("Minutes", run.minutes.toFixed(1), of(run, "minutes", count), share(run.minutes, run.limits.minutes))];
}

function tile(name, value, more, bar) {
  return h("div", { class: "tile" }, h("h3", {}, name), h("p", { class: "figure" }, value), more ? h("p", { class: "more" }, more) : null, bar);
}

// The incumbent's look at test, and what it gained over the first harness.
function test(run) {
  const last = (wanted) => run.tests.findLast((one) => one.score && wanted(one));
  const best = last((one) => one.generation === run.best) ?? last(() => true);
  if (!best) return ["–", run.tests.length ? "no score" : "not looked at yet"];
  const first = last((one) => one.generation === 1 && one !== best);
  const gain = first ? `${signed(best.score.value - first.score.value)} against generation 1: ${interval(first.score)}` : `generation ${best.generation}`;
  return [scored(best.score), gain];
}

function of(run, unit, shown) {
  const limit = run.limits[unit];
  return limit === null || limit === undefined ? "" : `of ${shown(limit)}`;
}

// `much`: percent from which it stands out.
function share(part, whole, much = 90) {
  if (!whole || part === null) return null;
  const width = Math.min(100, (part / whole) * 100);
  return s("svg", { class: width >= much ? "share nearly" : "share", viewBox: "0 0 100 4", preserveAspectRatio: "none", "aria-hidden": "true" },
    s("rect", { class: "whole", width: 100, height: 4 }), s("rect", { class: "part", width, height: 4 }));
}

function facts(run) {
  const spent = Object.entries(run.spent.purposes ?? {}).map(([name, one]) => `${name} ${many(one.calls, "call")}${one.usd ? ` ${dollars(one.usd)}` : ""}`);
  return [["Task", run.task || "–"], ["Mode", run.mode || "–"], ["Seed", String(run.seed ?? "–")],
    ["Metric", run.metric + (run.higher_is_better ? "" : ", lower is better")],
    ...(spent.length ? [["Spent on", spent.join(" · ")]] : []), ["Folder", copied(run.folder)]];
}

function copied(text, id) {
  const button = h("button", { type: "button", class: "copy", "aria-label": `Copy ${text}`, onclick: async () => {
    const done = await navigator.clipboard?.writeText(text).then(() => true, () => false);
    const said = done ? "Copied" : "Not allowed here: select the text"; // a page without TLS on another address may not
    button.textContent = said;
    say(said);
    setTimeout(() => { button.textContent = "Copy"; }, 2000);
  } }, "Copy");
  return h("span", { class: "copied" }, h("code", { id }, text), button);
}
