"""A checkpoint is whole or not there, and belongs to one training only."""

import pytest

from sia_runner.training.checkpoints import CheckpointStore


def save(store: CheckpointStore, step: int, **content) -> str:
    tag = store.next_tag(step)
    store.write(tag, {"note": step, "state": {"of": step}, **content})
    return tag


def test_the_newest_one_is_resumed(tmp_path):
    store = CheckpointStore(tmp_path, "this")
    for step in (0, 10, 20):
        save(store, step)
    newest = store.latest()
    assert newest is not None
    assert (newest[0], newest[1]["note"]) == (20, 20)


def test_nothing_was_kept_in_a_new_folder(tmp_path):
    assert CheckpointStore(tmp_path / "new", "this").latest() is None


def test_those_of_another_training_are_neither_resumed_nor_deleted_for(tmp_path):
    save(CheckpointStore(tmp_path, "other"), 30)
    store = CheckpointStore(tmp_path, "this")
    assert store.latest() is None
    save(store, 10)
    store.prune(30)
    newest = store.latest()
    assert newest is not None
    assert newest[0] == 10


@pytest.mark.parametrize("cut", ["before the learner", "after the learner", "in the file"])
def test_a_save_that_was_cut_is_no_checkpoint_and_its_name_is_not_used_again(cut, tmp_path):
    store = CheckpointStore(tmp_path, "this")
    save(store, 10)
    tag = store.next_tag(20)
    (tmp_path / tag).mkdir()
    if cut != "before the learner":
        (tmp_path / tag / "learner.pt").write_bytes(b"weights")
    if cut == "in the file":
        (tmp_path / tag / ".checkpoint.json").write_text('{"key": "th')
    again = CheckpointStore(tmp_path, "this")
    assert again.steps() == [10]
    assert again.next_tag(20) != tag
    save(again, 20)
    again.prune(10)
    assert again.steps() == [10, 20]
    assert not (tmp_path / tag).exists()


def test_pruning_keeps_the_newest_good_one_and_everything_after_it(tmp_path):
    store = CheckpointStore(tmp_path, "this")
    for step in (0, 10, 20, 30):
        save(store, step)
    store.prune(25)
    assert store.steps() == [20, 30]
    store.prune(19)
    assert store.steps() == [20, 30]


def test_the_learner_forgets_what_is_pruned_before_its_folder_goes(tmp_path):
    store, forgotten = CheckpointStore(tmp_path, "this"), []
    tags = [save(store, step) for step in (0, 10, 20)]
    (tmp_path / store.next_tag(30)).mkdir()  # a save that was cut has no state

    def forget(state):
        assert (tmp_path / tags[state["of"] // 10] / "checkpoint.json").exists()
        forgotten.append(state["of"])

    store.prune(20, forget)
    assert forgotten == [0, 10] and store.steps() == [20]


def test_going_back_takes_the_newest_one_that_is_old_enough(tmp_path):
    store = CheckpointStore(tmp_path, "this")
    for step in (0, 10, 20):
        save(store, step)
    earlier = store.latest(19)
    assert earlier is not None
    assert earlier[0] == 10


def test_of_two_saves_after_the_same_step_the_later_one_counts(tmp_path):
    store = CheckpointStore(tmp_path, "this")
    save(store, 10, turn="first")
    save(CheckpointStore(tmp_path, "this"), 10, turn="second")
    newest = store.latest()
    assert newest is not None
    assert newest[1]["turn"] == "second"
