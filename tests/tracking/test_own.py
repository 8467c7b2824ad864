"""A tracker of the user's own: a class and a YAML."""

import json
import os

from tests.harnesses import MAJORITY, WORDS

MINE = """
import json, pathlib
class Mine:
    def update(self, run, summary):
        self._file = pathlib.Path(run) / "mine.jsonl"
        self._write([g["status"] for g in summary["generations"]] + [summary["status"]])
    def close(self):
        self._write("closed")
    def _write(self, what):
        with self._file.open("a") as lines:
            print(json.dumps(what), file=lines)
"""


def test_it_is_told_of_each_generation_and_closed_at_the_end(cli):
    (cli.folder / "mine_tracker.py").write_text(MINE)
    (cli.folder / "conf" / "tracker").mkdir(parents=True)
    (cli.folder / "conf" / "tracker" / "mine.yaml").write_text("name: mine\n_target_: mine_tracker.Mine\n")
    paths = os.pathsep.join(filter(None, [str(cli.folder), os.environ.get("PYTHONPATH")]))
    own = ["--config-dir", str(cli.folder / "conf"), "tracker=mine", f"hydra.run.dir={cli.run}"]
    done = cli(*own, *cli.replay(MAJORITY, WORDS), env={"PYTHONPATH": paths})
    assert done.returncode == 0, done.stderr
    told = [json.loads(line) for line in (cli.run / "mine.jsonl").read_text().splitlines()]
    assert told == [
        ["accepted", "running"],
        ["accepted", "accepted", "running"],
        ["accepted", "accepted", "completed"],
        "closed",
    ]
