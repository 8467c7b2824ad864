// One run: its parts are drawn anew only when what they show has changed.

import { badge, drawing, fault, h, replace, say } from "./dom.js";
import { changes } from "./changes.js";
import { training } from "./curves.js";
import { follow, get, once } from "./data.js";
import { fixed } from "./format.js";
import { generations } from "./generations.js";
import { jobs } from "./jobs.js";
import { logs } from "./logs.js";
import { overview } from "./overview.js";
import { trajectories } from "./trajectories.js";
import { moment } from "./time.js";

const PARTS = [["overview", "Overview"], ["generations", "Generations"], ["changes", "Changes"], ["answers", "Trajectories"],
  ["training", "Training"], ["logs", "Logs"], ["jobs", "Jobs"]];

export function showRun(main, path) {
  document.title = `${path === "." ? "Run" : path} · SIA Runner`;
  const body = Object.fromEntries(PARTS.map(([id]) => [id, h("div", { id: `${id}-body` })]));
  const heading = h("div", { class: "heading" }, h("h1", {}, path === "." ? "Run" : path));
  const jumps = h("nav", { class: "parts", hidden: true, "aria-label": "Parts of this page" }, h("ul", {}, PARTS.map(([id, name]) =>
    h("li", {}, h("a", { href: `#${id}`, onclick: (event) => { event.preventDefault(); jump(id); } }, name))))); // the address names the run
  const sections = PARTS.map(([id, name]) =>
    h("section", { id, hidden: true, "aria-labelledby": `${id}-name` }, h("h2", { id: `${id}-name`, tabindex: "-1" }, name), body[id]));
  replace(main, heading, jumps, sections);
  const draw = drawing();
  const state = { timer: 0, ended: false };
  const news = announcing();
  const change = changes(body.changes, path);
  const answers = trajectories(body.answers, path);
  const log = logs(body.logs, path);
  const shown = generations(body.generations, (n) => { change.choose(n); jump("changes"); });
  const [about, curves, where] = [overview(body.overview), training(body.training), jobs(body.jobs)];

  const refresh = once(async () => {
    try {
      const run = await get("run", { path });
      if (jumps.hidden) {
        for (const part of [jumps, ...sections]) part.hidden = false;
        at.mark();
      }
      news(run);
      const now = run.generations.findLast((one) => one.step);
      draw(heading, [run.name, run.status, run.fault, run.stopped, run.max_gen, now?.n, now?.step, now?.since], () => head(run, path, now));
      about(run);
      shown.update(run);
      change.update(run);
      answers.update(run);
      log.update(run);
      clearTimeout(state.timer);
      if (!run.counted && !state.ended) state.timer = setTimeout(refresh, 300); // a long ledger is added up in slices
      where(run);
      curves((await get("run/curves", { path })).generations, run);
    } catch (error) {
      draw(heading, error.message, () => [trail(path), h("h1", {}, path === "." ? "Run" : path), fault(error)]);
    }
  });

  const at = spy(jumps, sections);
  const ends = [() => { state.ended = true; clearTimeout(state.timer); }, follow(path, refresh), at.end, shown.end, answers.end, log.end];
  return () => ends.forEach((end) => end());
}

function jump(id) {
  const name = document.getElementById(`${id}-name`);
  name.scrollIntoView({ block: "start" });
  name.focus({ preventScroll: true });
}

// Marks the part that is looked at.
function spy(jumps, sections) {
  const mark = () => {
    const current = sections.findLast((section) => section.getBoundingClientRect().top < 180) ?? sections[0];
    for (const link of jumps.querySelectorAll("a")) {
      if (link.hash === `#${current.id}`) link.setAttribute("aria-current", "true");
      else link.removeAttribute("aria-current");
    }
  };
  addEventListener("scroll", mark, { passive: true });
  return { mark, end: () => removeEventListener("scroll", mark) };
}

// Says each verdict and the end, once; what was there when the page was opened is not said.
function announcing() {
  let known = null;
  return (run) => {
    const judged = run.generations.filter((one) => !["under way", "cut"].includes(one.status));
    const newest = judged.at(-1);
    if (known && judged.length > known.judged) say(`Generation ${newest.n} ${newest.status}${newest.val ? `, ${fixed(newest.val.value)}` : ""}`);
    else if (known && run.status !== known.status) say(`The run is ${run.status}`);
    known = { judged: judged.length, status: run.status };
  };
}

function trail(path) {
  const above = path.slice(0, path.lastIndexOf("/") + 1);
  return h("p", { class: "trail" }, h("a", { href: document.querySelector(".home").getAttribute("href") }, "Runs"), ` / ${above}`);
}

function head(run, path, now) {
  return [path === "." ? null : trail(path),
    h("h1", {}, run.name, " ", badge(run.status)),
    now && run.status === "running" ? h("p", { class: "now" }, h("strong", {}, `Generation ${now.n}${run.max_gen ? ` of ${run.max_gen}` : ""}`), ` · ${now.step} · `, moment(now.since, "since")) : null,
    run.fault ? h("p", { class: "fault" }, `Damaged: ${run.fault}. What follows may be wrong.`) : null,
    run.stopped ? h("p", { class: "quiet" }, `Stopped: ${run.stopped}`) : null];
}
