"""A class of the user's own that cannot be used refuses the run in one line, before anything starts."""

import pytest

MODULE = """
class Nothing:
    pass
class Tracker:
    def __init__(self, file): pass
    def update(self, run, summary): pass
    def close(self): pass
"""


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["search.accept.rule=absent.Rule"],
            "absent.Rule cannot be loaded: ModuleNotFoundError: No module named 'absent'",
        ),
        (["search.accept.rule=mine.Rule"], "mine.Rule cannot be loaded: AttributeError: "),
        (
            ["search.accept.rule=mine.Nothing"],
            "mine.Nothing has no method decide, which sia_runner.selection.scoring.AcceptRule asks for",
        ),
        (["task.metric.verifier=mine.Nothing"], "mine.Nothing has no method verify, which "),
        (["tracker._target_=mine.Nothing"], "mine.Nothing has no method update and no method close, which "),
        (
            ["tracker._target_=mine.Tracker", "+tracker.path=x"],
            "mine.Tracker cannot be built from these keys (path): ",
        ),
        (["sandbox._target_=mine.Nothing"], "mine.Nothing has no method check and no method gaps and no method "),
        (["meta_agent._target_=mine.Nothing"], "mine.Nothing has no method propose, which "),
        (["target_agent=policy", "target_agent.policy.backend=mine.Nothing"], "mine.Nothing has no method start and "),
        (
            ["task=arithmetic", "trainer=grpo", "trainer.algorithm=mine.Nothing"],
            "mine.Nothing has no method advantages, which sia_runner.training.algorithms.base.OnlineAlgorithm asks for",
        ),
    ],
)
def test_a_class_that_cannot_be_used_is_refused_in_one_line(cli, overrides, message):
    if "trainer=grpo" in overrides:
        pytest.importorskip("torch", reason="a trainer needs the extra `training`")
    (cli.folder / "mine.py").write_text(MODULE)
    done = cli(*overrides)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith(f"refused: {message}") and not cli.run.exists()


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("search.accept.rule=coin", "search.accept.rule=coin: input should be 'ladder', 'mcnemar' or 'bootstrap'"),
        ("+search.accept.most_lost=3", "search.accept.most_lost=3: no such key; allowed: level, rule"),
        ("+target_agent.policy.mine=3", "target_agent.policy.mine=3: no such key"),
        ("+tracker.file=x", "tracker.file=x: no such key"),
        ("+sandbox.url=x", "sandbox.url=x: no such key"),
    ],
)
def test_what_is_ours_stays_strict(cli, override, message):
    done = cli(override)
    assert done.returncode == 2 and done.stderr.startswith(f"refused: {message}")
