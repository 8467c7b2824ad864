"""All memory lies in the history: a new process, or one that was cut, proposes the same."""

import json
import subprocess
import sys
from pathlib import Path

from tests.proposers.synthetic import Bench, experiment, recipes, write_task

_ELSEWHERE = """
import json, sys
from pathlib import Path
from sia_runner.proposers.protocol import ProposerContext
from tests.proposers.synthetic import ENTRY, Bench, experiment, recipes
folder = Path(sys.argv[1])
context = ProposerContext("synthetic", folder, folder / "reference", ENTRY, 0)
proposals, _ = experiment(recipes(context, 7), Bench(noisy=True), 4)
print(json.dumps([p.to_json() for p in proposals], default=str))
"""


def test_another_process_with_another_hash_seed_proposes_the_same(tmp_path):
    context = write_task(tmp_path / "task")
    here, _ = experiment(recipes(context, seed=7), Bench(noisy=True), 4)
    root = Path(__file__).resolve().parents[2]
    there = subprocess.run(
        [sys.executable, "-c", _ELSEWHERE, str(context.task_folder)],
        env={"PYTHONHASHSEED": "12345", "PYTHONPATH": str(root), "PATH": "/usr/bin:/bin", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert json.loads(there.stdout) == json.loads(json.dumps([p.to_json() for p in here], default=str))


def test_a_new_object_that_knows_only_the_history_proposes_the_same(tmp_path):
    context = write_task(tmp_path / "task")
    one, history = experiment(recipes(context, seed=1), Bench(noisy=True), 5)

    class Fresh:
        def propose(self, brief, workbench):
            return recipes(context, seed=1).propose(brief, Bench(noisy=True))

    other, again = experiment(Fresh(), Bench(noisy=True), 5)
    assert [p.to_json() for p in other] == [p.to_json() for p in one]
    assert again == history


def test_another_seed_searches_elsewhere(tmp_path):
    context = write_task(tmp_path / "task")
    [_, one], _ = experiment(recipes(context, seed=1), Bench(), 2)
    [_, other], _ = experiment(recipes(context, seed=2), Bench(), 2)
    assert one.notes["trials"] != other.notes["trials"]
