"""The callback around the steps of the online driver: resume, progress, checkpoints, early stop."""

import math
import time
from dataclasses import asdict, replace
from typing import Any

from transformers import TrainerCallback

from sia_runner.errors import TrainingError
from sia_runner.training.adapters import TRAINED_ADAPTER, restore_adapter_state
from sia_runner.training.batch import RolloutBatch
from sia_runner.training.online_trainer import OnlineTrainer
from sia_runner.training.progress import CheckpointStore, CollapseVerdict, TrainingProgress, check_collapse
from sia_runner.training.protocol import TrainingJob
from sia_runner.wire.adapter_files import adapter_state


class TrainingMonitor(TrainerCallback):
    """A callback of the trainer; `progress` is the state of the training."""

    def __init__(self, assignment: TrainingJob, checkpoints: CheckpointStore) -> None:
        self._job, self._checkpoints = assignment, checkpoints
        self._trainer: Any = None
        self._saved: tuple[int, dict[str, Any]] | None = None  # checkpoint to start from
        self._began = 0.0  # less the seconds before a kill
        self.progress = TrainingProgress()

    def run(self, trainer: OnlineTrainer) -> None:
        """Train from the newest checkpoint, or from the start, to the end or to an early stop."""
        self._trainer, self._began = trainer, time.monotonic()
        self._saved = saved = self._checkpoints.latest()
        # A process that reads later would start from what the first has written by then.
        trainer.accelerator.wait_for_everyone()
        if saved is not None:
            self.progress = TrainingProgress.from_plain(saved[1]["progress"])
            self._began -= self.progress.seconds
            self._restore(saved[1]["weights"])
            if self._first:
                self._job.say(f"resumed after step {saved[0]}")
        if not self._done:
            trainer.train()
            # A resume finds the final state if the result was written and not yet journaled.
            self.progress.seconds = time.monotonic() - self._began
            self._save(self.progress.steps)

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Save the initial state, or restore optimizer and step; the optimizer exists from here on."""
        saved, self._saved = self._saved, None
        if saved is None:
            self._save(0)
            return
        state.global_step = saved[0]
        if "optimizer" in saved[1]:
            self._trainer.optimizer.load_state_dict(saved[1]["optimizer"])
            self._trainer.lr_scheduler.load_state_dict(saved[1]["scheduler"])

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Record the step, then stop early or save a checkpoint if one is due."""
        trainer, progress = self._trainer, self.progress
        trainer.release()
        progress.steps = state.global_step
        last = trainer.curve[-1]
        progress.curve.append(replace(last, kl=progress.curve[-1].kl) if math.isnan(last.kl) else last)
        new = trainer.rollouts.trajectories if (state.global_step - 1) % trainer.iterations == 0 else ()
        if new:
            progress.saw(new)
        progress.seconds = time.monotonic() - self._began
        if self._first:
            self._job.record(progress.figures(len(new)))
            self._job.say(_progress_line(progress, state.max_steps, trainer.rollouts.batch))
        verdict = check_collapse(progress.curve, self._job.algorithm.stopping_limits)
        step, every, iterations = progress.steps, self._job.algorithm.checkpoint_every, trainer.iterations
        if verdict is not None:
            self._stop(verdict)
            control.should_training_stop = True
        # At the end of a batch of rollouts, which checkpoints do not contain.
        elif step % iterations == 0 and step // every > (step - iterations) // every:
            self._save(step)

    @property
    def _first(self) -> bool:
        """True in the process that writes."""
        return bool(self._trainer.accelerator.is_main_process)

    @property
    def _done(self) -> bool:
        return bool(self.progress.stopped) or self.progress.steps >= self._job.algorithm.steps

    def _stop(self, verdict: CollapseVerdict) -> None:
        progress = self.progress
        progress.stopped = verdict.reason
        if verdict.harmful:
            good = self._checkpoints.latest(self._trusted(progress.steps))
            if good is None:
                raise TrainingError(f"{progress.stopped}, and no checkpoint to go back to is left in {self._job.work}")
            progress.kept = good[0]
            progress.stopped += f"; the adapter is that of step {good[0]}"
            self._restore(good[1]["weights"])
        if self._first:
            self._job.say(f"stopped early: {progress.stopped}")

    def _save(self, step: int) -> None:
        trainer, model = self._trainer, self._job.policy.model
        if self._first:
            head = getattr(model, "value_head", None)
            value = {} if head is None else head.state_dict()
            weights = {"adapter": adapter_state(model, TRAINED_ADAPTER), "value": value}
            content: dict[str, Any] = {"weights": weights, "progress": asdict(self.progress)}
            if not self._done:
                content |= {"optimizer": trainer.optimizer.state_dict(), "scheduler": trainer.lr_scheduler.state_dict()}
            self._checkpoints.save(step, content)
            self._checkpoints.prune(self._trusted(step))
        trainer.accelerator.wait_for_everyone()

    def _trusted(self, step: int) -> int:
        """Return the newest step that a window ending with `step` does not call harmful.

        The window's first figure is of the weights before its step; the last good KL is up to `kl_every` steps older.
        """
        return max(0, step - self._job.algorithm.stopping_limits.window - self._trainer.kl_every)

    def _restore(self, weights: dict[str, Any]) -> None:
        model = self._job.policy.model
        restore_adapter_state(model, weights["adapter"])
        if weights["value"]:
            model.value_head.load_state_dict(weights["value"])


def _progress_line(progress: TrainingProgress, steps: int, batch: RolloutBatch) -> str:
    last = progress.curve[-1]
    figures = f"reward {last.reward:.3f} · kl {last.kl:.3f} · entropy {last.entropy:.3f} · {last.tokens} tokens"
    line = f"step {progress.steps}/{steps} · {figures} · {progress.seconds:.1f} s"
    counts = {"rollouts without reward": batch.failed, "calls too long": batch.long}
    return line + "".join(f" · {count} {text}" for text, count in counts.items() if count)
