"""The task of whole runs with a tiny policy, made small where how well it learns is not what is tested."""

from tests.conftest import ROOT

# 28 dev and 56 val questions: the rest of a generation is training and test. One list, so that tests share one policy.
SMALL = ["task.splits.dev=0.02", "task.splits.val=0.04"]

_REFERENCE = (ROOT / "tasks" / "arithmetic" / "reference" / "target_agent.py").read_text()
# Asks bare questions whatever the base is called: for a tiny policy that has a name of its own.
BARE = _REFERENCE.replace('os.environ["SIA_MODEL"] != "tiny"', "False")
