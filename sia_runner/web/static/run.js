// One run: its parts are drawn anew only when what they show has changed.

import { badge, h, replace, say, table } from "./dom.js";
import { curveChart, scoreChart } from "./chart.js";
import { follow, get, once } from "./data.js";
import { count, dollars, interval, seconds } from "./format.js";
import { details } from "./details.js";
import { logs } from "./logs.js";
import { trajectories } from "./trajectories.js";

const SHOWN = 200; // generations in the table at first
const PARTS = [["overview", "Overview"], ["generations", "Generations"], ["change", "Changes"], ["answers", "Trajectories"],
  ["training", "Training"], ["logs", "Logs"], ["jobs", "Jobs"]];

export function showRun(main, path) {
  document.title = `${path === "." ? "Run" : path} · SIA Runner`;
  const bodies = Object.fromEntries(PARTS.map(([id]) => [id, h("div", { id: `${id}-body` })]));
  const heading = h("div", {}, h("h1", {}, path === "." ? "Run" : path));
  const sections = PARTS.map(([id, name]) =>
    h("section", { id, "aria-labelledby": `${id}-name` }, h("h2", { id: `${id}-name`, tabindex: "-1" }, name), bodies[id]));
  const jumps = PARTS.map(([id, name]) => h("li", {}, h("a", { href: `#${id}`, onclick: (event) => jump(event, id) }, name)));
  replace(main, heading, h("nav", { class: "parts", "aria-label": "Parts of this page" }, h("ul", {}, jumps)), sections);
  const shown = new Map();
  const state = { all: false, known: null, changes: details(bodies.change, path), answers: trajectories(bodies.answers, path), logs: logs(bodies.logs, path) };

  // Draws a part when `data` is not what it was drawn from.
  function draw(place, data, make) {
    const now = JSON.stringify(data);
    if (shown.get(place) === now) return;
    shown.set(place, now);
    replace(place, make());
  }

  const refresh = once(async () => {
    try {
      const run = await get("run", { path });
      announce(run, state);
      draw(heading, [run.name, run.status, run.fault, run.stopped], () => head(run));
      draw(bodies.overview, { ...run, generations: [], jobs: [] }, () => overview(run));
      draw(bodies.generations, [run.generations, run.best, state.all], () => generations(run));
      draw(bodies.jobs, [run.jobs, run.holder], () => jobs(run));
      state.changes.update(run);
      state.answers.update(run);
      state.logs.update(run);
      const curves = (await get("run/curves", { path })).generations;
      draw(bodies.training, curves, () => training(curves));
    } catch (error) {
      replace(heading, h("h1", {}, path), h("p", { class: "fault", role: "alert" }, error.message));
      shown.delete(heading);
    }
  });

  function generations(run) {
    const all = run.generations;
    const rows = state.all ? all : all.slice(-SHOWN);
    if (!all.length) return [h("p", {}, "No generation has begun yet.")];
    const more = rows.length < all.length
      ? h("p", {}, h("button", { type: "button", id: "all-generations", onclick: () => { state.all = true; refresh(); } }, `Show all ${count(all.length)}`)) : null;
    return [scoreChart(all, run.metric), levers(rows), more, table(`${count(all.length)} generations`, columns(run), rows, "generation-table")];
  }

  function columns(run) {
    const open = (n) => { state.changes.choose(n); jumpTo("change"); };
    return [
      { name: "Generation", cell: (one) => h("button", { class: "link", type: "button", id: `open-${one.n}`, onclick: () => open(one.n) }, `${one.n}${one.n === run.best ? " (best)" : ""}`) },
      { name: "Status", cell: (one) => badge(one.step ? `${one.status}: ${one.step}` : one.status) },
      { name: "Lever", cell: (one) => one.algorithm ? `${one.lever}, ${one.algorithm}` : one.lever },
      { name: "Change", text: true, cell: (one) => one.title },
      { name: `Val ${run.metric} [95% CI]`, number: true, cell: (one) => interval(one.val) },
      { name: "Why", text: true, cell: (one) => one.reason },
      { name: "Cost", number: true, cell: (one) => one.usage ? dollars(one.usage.usd) : "–" },
      { name: "Time", number: true, cell: (one) => seconds(Object.values(one.seconds).reduce((sum, value) => sum + value, 0)) },
    ];
  }

  const end = follow(path, refresh);
  return () => { end(); state.logs.end(); state.answers.end(); };
}

function jump(event, id) {
  event.preventDefault(); // the address names the run
  jumpTo(id);
}

function jumpTo(id) {
  const name = document.getElementById(`${id}-name`);
  name.scrollIntoView({ block: "start" });
  name.focus({ preventScroll: true });
}

function announce(run, state) {
  const judged = run.generations.filter((one) => !["under way", "cut"].includes(one.status));
  if (state.known !== null && judged.length > state.known) {
    const newest = judged.at(-1);
    say(`Generation ${newest.n} ${newest.status}${newest.val ? `, ${newest.val.value.toFixed(3)}` : ""}`);
  }
  state.known = judged.length;
}

function head(run) {
  return [h("h1", {}, run.name, " ", badge(run.status)),
    run.fault ? h("p", { class: "fault" }, `Damaged: ${run.fault}. What follows may be wrong.`) : null,
    run.stopped ? h("p", {}, `Stopped: ${run.stopped}`) : null];
}

function overview(run) {
  const of = (name) => run.limits[name] === null || run.limits[name] === undefined ? "" : ` of ${name === "usd" ? dollars(run.limits[name]) : count(run.limits[name])}`;
  const total = run.spent.total ?? { usd: 0, tokens: 0, calls: 0 };
  const test = run.tests.map((one) => `generation ${one.generation}: ${one.score ? interval(one.score) : "no score"}`);
  const facts = [["Task", run.task], ["Mode", run.mode], ["Seed", String(run.seed ?? "–")], ["Best generation", String(run.best ?? "none yet")],
    ["Test", test.join("; ") || "not looked at yet"], ["Cost", dollars(total.usd) + of("usd")], ["Tokens", count(total.tokens) + of("tokens")],
    ["Calls", count(total.calls) + of("calls") + (run.spent.in_flight ? `, ${run.spent.in_flight} under way` : "")],
    ["Minutes", run.minutes.toFixed(1) + of("minutes")], ["Folder", run.folder]];
  const go = run.resume ? h("p", {}, "Continue with ", h("code", { id: "resume" }, run.resume), " ",
    h("button", { type: "button", onclick: () => navigator.clipboard?.writeText(run.resume).then(() => say("copied")) }, "Copy")) : null;
  return [h("dl", {}, facts.map(([name, value]) => h("div", {}, h("dt", {}, name), h("dd", {}, value)))), go];
}

function levers(rows) {
  return h("ol", { class: "levers", "aria-label": "Levers in order of generations" }, rows.map((one) =>
    h("li", { class: one.lever === "harness" ? null : "weights" }, `${one.n} ${one.lever || "…"} `, badge(one.status === "accepted" ? "accepted" : one.status))));
}

function training(curves) {
  const found = Object.entries(curves);
  if (!found.length) return [h("p", { class: "quiet" }, "No weights were trained.")];
  return found.map(([n, named]) => [h("h3", {}, `Generation ${n}`), h("div", { class: "charts" }, Object.entries(named).map(([name, points]) =>
    h("figure", {}, curveChart(name, points), h("figcaption", {}, `${name} by step: ${points.at(-1)[1].toFixed(3)} at step ${points.at(-1)[0]}`))))]).flat();
}

function jobs(run) {
  const where = run.holder.host ? `Its process ${run.holder.pid} works on ${run.holder.host}${run.holder.job && run.holder.job !== "None" ? ` in job ${run.holder.job}` : ""}.` : "No process works on it.";
  if (!run.jobs.length) return [h("p", {}, where), h("p", { class: "quiet" }, "Its stages ran in that process: no jobs.")];
  const columns = [["Step", "step"], ["Kind", "kind"], ["Job", "job"], ["State", "state"], ["Submitted", "at"], ["Folder", "folder"]];
  return [h("p", {}, where), table("Jobs, the newest first", columns.map(([name, key]) => ({ name, cell: (job) => job[key] })), run.jobs, "job-table")];
}
