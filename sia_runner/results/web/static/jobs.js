// Jobs of a run, and where its own process works.

import { badge, drawing, empty, h } from "./dom.js";
import { table } from "./table.js";
import { moment } from "./time.js";

const COLUMNS = [
  { name: "Step", cell: (job) => job.step }, { name: "Kind", cell: (job) => job.kind }, { name: "Job", cell: (job) => job.job },
  { name: "State", cell: (job) => badge(job.state) }, { name: "Submitted", cell: (job) => moment(job.at) }, { name: "Folder", text: true, line: true, cell: (job) => h("code", {}, job.folder) }];

export function jobs(body) {
  const draw = drawing();
  const [where, shown] = [h("p", {}), h("div", {})];
  const rows = table("job-table", COLUMNS, (job) => `${job.step} ${job.job} ${job.at}`);
  body.append(where, shown);
  return (run) => {
    draw(where, run.holder, () => [process(run.holder)]);
    draw(shown, run.jobs.length > 0, () => run.jobs.length ? rows.element : empty("Its stages run in its own process: no jobs."));
    rows.update("Jobs, the newest first", run.jobs);
  };
}

function process({ host, pid, job }) {
  if (!host) return "No process works on it.";
  return `Its process ${pid} works on ${host}${job && job !== "None" ? ` in job ${job}` : ""}.`;
}
