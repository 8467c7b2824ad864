"""The tracker at the end of a run: a finished one waits for the uploads, and an interrupted one does not."""

import pytest

from sia_runner.tracking import wandb


@pytest.mark.parametrize(
    ("status", "waits", "seconds"),
    [("completed", None, 15.0), ("interrupted", None, 1.0), ("interrupted", 2, 15.0)],
    ids=["finished", "interrupted", "waits-for-approval"],
)
def test_an_interrupted_run_leaves_the_uploads_to_the_sender(status, waits, seconds, tmp_path, monkeypatch):
    waited = []

    class Sender:
        def poke(self):
            pass

        def end(self, wait):
            waited.append(wait)

    monkeypatch.setattr(wandb, "_start_sender", lambda run: Sender())
    tracker = wandb.Wandb(wait=15.0)
    tracker.update(tmp_path, {"status": "running", "waits": None, "generations": []})
    tracker.update(tmp_path, {"status": status, "waits": waits, "generations": []})
    tracker.close()
    assert waited == [seconds]
