"""A W&B run that is kept equal to a run directory: what is on disk and not in W&B is sent, in a fixed order."""

from collections.abc import Callable
from typing import Any, TypeVar

from sia_runner.config.migration import read_stored_config
from sia_runner.records import Json, Score, score_columns
from sia_runner.store.files import regular_files
from sia_runner.store.generations import GenerationRecord
from sia_runner.store.run_directory import RunDir, read_json
from sia_runner.tracking import facts
from sia_runner.tracking.rows import RowStream, decisions_table, failures_table
from sia_runner.tracking.server import TrackingState, count_rows_in_wandb, key_of

T = TypeVar("T")
_STEP_METRICS = {"train/*": "train/point"} | dict.fromkeys(
    ("val", "val_low", "val_high", "best_val", "accepted", "seconds", "seconds/*", "usage/*", "outcomes/*", "update/*"),
    "generation",
)


class WandbMirror:
    """One W&B run. The first `_rows_in_wandb` rows are in W&B already. Raises what wandb raises."""

    def __init__(self, run: RunDir, options: Json, *, online: bool) -> None:
        self._run, self._options = run, options
        self._error: Exception | None = None
        project, entity = options.get("project") or "sia-runner", options.get("entity")
        self._state = TrackingState.of(run, project, entity, elsewhere=options.get("elsewhere", False))
        self._state.mode = "online" if online else "offline"
        self._state.save(run)
        before = 0 if online else count_rows_in_wandb(run.tracking, self._state.id)
        self._wandb = _start_run(run, self._state, options)
        self._rows_in_wandb = self._wandb.starting_step if online else before
        self._story = RowStream(run)
        self._stamp: tuple[int, int] | None = None  # of summary.json at the last read
        self._summary: Json = {}
        self.sent = 0  # rows and versions sent by this process

    def catch_up(self, *, last: bool = False) -> Json:
        """Send all that is on disk by now; with `last` the tables too. Returns the summary that was read."""
        status = self._run.summary.stat()
        before, self._stamp = self._stamp, (status.st_mtime_ns, status.st_ino)
        if self._stamp != before:
            self._summary = read_json(self._run.summary)
        summary = self._summary
        for row in self._story.news(summary):
            if row.number >= self._rows_in_wandb:
                self._wandb.log(row.figures, step=row.number, commit=True)
                self.sent += 1
            if row.verdict and self._options.get("artifacts", True):
                self._attempt(self._versions, row.verdict)
        if self._stamp != before:
            self._wandb.summary.update(_run_figures(summary))
            self._set_label(summary["mode"], facts.count_directions(summary))
        if last:
            self._attempt(self._tables, summary)
        return summary

    def _set_label(self, mode: str, directed: int) -> None:
        """Send mode and number of a person's notes where one changed: neither is known when the run begins."""
        label = {"mode": mode, "directed": directed}
        if any(self._wandb.config.get(key) != value for key, value in label.items()):
            self._wandb.config.update(label, allow_val_change=True)
            config = read_stored_config(self._run.config) | {"tracker": self._options}
            self._wandb.tags = facts.run_tags(config, mode, directed)

    def finish(self, status: str) -> None:
        """Wait without a limit until W&B has everything. Raises the first error with versions or tables."""
        self._wandb.finish(exit_code=0 if status in ("completed", "budget") else 1)
        if self._error:
            raise self._error
        self._state.save(self._run)
        if self._state.mode == "online":
            for file in self._run.tracking.glob(f"wandb/*run-*/run-{self._state.id}.wandb"):
                file.with_name(f"{file.name}.synced").touch()  # so that wandb's own sync leaves them alone

    def _attempt(self, work: Callable[[T], None], subject: T) -> None:
        """Send versions or tables, for which wandb asks the server. After an error only rows are sent."""
        from wandb.errors import Error

        try:
            if not self._error:
                work(subject)
        except (Error, ValueError) as error:
            self._error = error

    def _versions(self, g: GenerationRecord) -> None:
        import wandb

        sent_keys = self._state.artifacts[self._state.mode]
        for kind, folder, metadata in facts.artifact_versions(self._run, g):
            key = f"{kind}/{g.n}"
            if key in sent_keys:
                continue
            version = wandb.Artifact(f"{kind}-{self._state.id}", type=kind, metadata=metadata)
            for path in regular_files(folder):  # from the run directory itself: nothing is copied
                source, name = facts.anonymous_path(self._run, path), path.relative_to(folder).as_posix()
                version.add_file(source, name=name, policy="immutable", skip_cache=True)
            best = ["best"] if g.status == "accepted" else []
            self._wandb.log_artifact(version, aliases=["latest", f"gen-{g.n}", *best])
            sent_keys.append(key)
            self.sent += 1
        if self._state.mode == "offline":  # online, W&B has them only once it has finished: see finish()
            self._state.save(self._run)

    def _tables(self, summary: Json) -> None:
        import wandb

        decisions = decisions_table(self._run, summary, bool(self._options.get("texts")))
        for name, (columns, rows) in (("decisions", decisions), ("failures", failures_table(summary))):
            if rows:
                self._wandb.summary[name] = wandb.Table(columns=list(columns), data=list(rows))


def _start_run(run: RunDir, state: TrackingState, options: Json) -> Any:
    """Start the W&B run. wandb collects nothing by itself: no console, code, git, machine, packages or statistics."""
    import wandb

    config, summary = read_stored_config(run.config), read_json(run.summary)
    settings = wandb.Settings(
        console="off",
        silent=True,
        save_code=False,
        disable_git=True,
        disable_job_creation=True,
        x_disable_meta=True,
        x_disable_stats=True,
        x_disable_machine_info=True,
        x_save_requirements=False,
        init_timeout=30.0,
        api_key=key_of(wandb.setup().settings) or None if state.mode == "online" else None,
    )
    wandb_run = wandb.init(
        id=state.id,
        resume="allow",
        mode=state.mode,  # pyright: ignore[reportArgumentType] - one of the two
        project=state.project,
        entity=state.entity,
        group=facts.run_group(run, config),
        job_type=f"trainer={config['trainer']['name']}",  # W&B keeps it: what was configured, not what was done
        name=facts.shorten(run.path.name),  # the whole name is in the facts
        tags=facts.run_tags(config | {"tracker": options}, summary["mode"], facts.count_directions(summary)),
        config=facts.experiment_facts(run, config),
        dir=str(run.tracking),
        settings=settings,
    )
    for name in dict.fromkeys(_STEP_METRICS.values()):
        wandb_run.define_metric(name, hidden=True)
    for name, axis in _STEP_METRICS.items():
        wandb_run.define_metric(name, step_metric=axis)
    return wandb_run


def _run_figures(summary: Json) -> Json:
    best = summary["best"] or {}
    figures: Json = {
        "generations": len(summary["generations"]),
        "directed": facts.count_directions(summary),
        **{key: summary[key] for key in ("status", "journal_head", "selected_on_test")},
        "best/generation": best.get("generation"),
        **{f"total/{key}": value for key, value in summary["usage"].items()},
    }
    for name in ("val", "test", "baseline_test"):
        figures |= score_columns(f"best/{name}", Score.parse(best.get(name)))
    return {key: value for key, value in figures.items() if value is not None}
