"""The program of a voting arm, run as the sandbox runs it: the most frequent answer of the samples, nothing else."""

import csv
import json
import subprocess
import sys
from pathlib import Path

from sia_runner.experiment import voting_program

# Sample k answers from the k-th column of its script.
SAMPLER = """
import csv, pathlib, sys, time
work = pathlib.Path(sys.argv[4])
k = int(work.name.removeprefix("sample_"))
answers = {answers}
if answers[k] is None:
    sys.exit(3)
if answers[k] == "sleep":
    time.sleep(60)
with (work / "submission.csv").open("w", newline="") as stream:
    csv.writer(stream).writerows([("label", "id"), *((answer, name) for name, answer in answers[k].items())])
"""


def vote(folder: Path, answers, seconds=20):
    home, work = folder / "harness", folder / "work"
    (home / "voted").mkdir(parents=True)
    work.mkdir()
    (home / "target_agent.py").write_text(Path(voting_program.__file__).read_text())
    (home / "voted" / "target_agent.py").write_text(SAMPLER.format(answers=answers))
    settings = {"entry": "target_agent.py", "samples": len(answers), "seconds": seconds}
    settings |= {"submission": "submission.csv", "columns": ["id", "label"]}
    (home / "voting.json").write_text(json.dumps(settings))
    line = [sys.executable, str(home / "target_agent.py"), "--dataset_dir", str(folder), "--working_dir", str(work)]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60)
    with (work / "submission.csv").open(newline="") as stream:
        return done, {row["id"]: row["label"] for row in csv.DictReader(stream)}


def test_the_most_frequent_answer_wins_and_a_tie_goes_to_the_first(tmp_path):
    samples = [{"a": "x", "b": "p", "c": "u"}, {"a": "y", "b": "q"}, {"a": "y", "b": "r", "d": "only"}]
    done, answers = vote(tmp_path, samples)
    assert done.returncode == 0 and answers == {"a": "y", "b": "p", "c": "u", "d": "only"}


def test_samples_that_fail_or_hang_are_left_out_and_the_others_count(tmp_path):
    done, answers = vote(tmp_path, [None, {"a": "x"}, "sleep", {"a": "x"}], seconds=2)
    assert done.returncode == 0 and answers == {"a": "x"}


def test_without_any_answer_the_program_fails(tmp_path):
    done, answers = vote(tmp_path, [None, None])
    assert done.returncode == 1 and answers == {}
