"""Where an agent works. Runs inside the sandbox, where nothing of sia_runner can be imported.

    python main.py --dataset_dir EVIDENCE --working_dir WORK

Beside it lie `prompt.md` and `settings.json`; the agent changes the files of WORK/harness. How it ended and its last
words are left in WORK/harness/.proposal.json, which the host takes out again.
"""

import argparse
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path

_HERE = Path(__file__).resolve().parent
_WORDS = 20_000  # characters kept of the agent's last words


@dataclass(frozen=True)
class Workspace:
    evidence: Path  # read-only
    work: Path
    harness: Path
    prompt: str
    turns: int  # model calls that the agent may make
    model: str

    def leave(self, words: str, ended: str = "") -> None:
        """`words`: the agent's last message. `ended`: why it did not come to an end of its own, in one line."""
        text = json.dumps({"words": words[:_WORDS], "ended": " ".join(ended.split())[:500]})
        self.harness.mkdir(exist_ok=True)  # whatever the agent did to it
        (self.harness / ".proposal.json").write_text(text, encoding="utf-8")
        print(f"ended: {ended or 'by itself'}", file=sys.stderr)


def enter() -> Workspace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    given = parser.parse_args()
    evidence, work = given.dataset_dir.resolve(), given.working_dir.resolve()
    settings = json.loads((_HERE / "settings.json").read_text(encoding="utf-8"))
    prompt = (_HERE / "prompt.md").read_text(encoding="utf-8")
    # the paths inside a sandbox are the sandbox's choice, so the host cannot have written them
    for mark, folder in (("@EVIDENCE@", evidence), ("@HARNESS@", work / "harness")):
        prompt = prompt.replace(mark, os.fspath(folder))
    os.chdir(work)
    return Workspace(evidence, work, work / "harness", prompt, settings["turns"], os.environ["SIA_MODEL"])
