"""A checkpoint is whole or not there, and belongs to one training only."""

import pytest

torch = pytest.importorskip("torch", reason="checkpoints hold tensors")

from sia_runner.training.progress import CheckpointStore


def content(step: int) -> dict:
    return {"weights": {"a": torch.full((3,), float(step))}, "note": "x"}


def test_the_newest_one_is_resumed(tmp_path):
    kept = CheckpointStore(tmp_path, "this")
    for step in (0, 10, 20):
        kept.save(step, content(step))
    found = kept.latest()
    assert found is not None
    assert found[0] == 20
    assert torch.equal(found[1]["weights"]["a"], torch.full((3,), 20.0))


def test_nothing_was_kept_in_a_new_folder(tmp_path):
    assert CheckpointStore(tmp_path / "new", "this").latest() is None


def test_those_of_another_training_are_not_resumed(tmp_path):
    CheckpointStore(tmp_path, "other").save(30, content(30))
    kept = CheckpointStore(tmp_path, "this")
    assert kept.latest() is None
    kept.save(10, content(10))
    found = kept.latest()
    assert found is not None
    assert found[0] == 10


def test_a_file_that_was_cut_while_it_was_written_is_no_checkpoint(tmp_path):
    kept = CheckpointStore(tmp_path, "this")
    kept.save(10, content(10))
    whole = (tmp_path / "step-000010.pt").read_bytes()
    (tmp_path / ".step-000020.4711").write_bytes(whole[: len(whole) // 2])
    assert kept.steps() == [10]


def test_pruning_keeps_the_newest_good_one_and_everything_after_it(tmp_path):
    kept = CheckpointStore(tmp_path, "this")
    for step in (0, 10, 20, 30):
        kept.save(step, content(step))
    kept.prune(25)
    assert kept.steps() == [20, 30]
    kept.prune(19)
    assert kept.steps() == [20, 30]


def test_going_back_takes_the_newest_one_that_is_old_enough(tmp_path):
    kept = CheckpointStore(tmp_path, "this")
    for step in (0, 10, 20):
        kept.save(step, content(step))
    found = kept.latest(19)
    assert found is not None
    assert found[0] == 10
