"""The agent's workspace. This runs inside the sandbox, where nothing of sia_runner can be imported.

    python main.py --dataset_dir EVIDENCE --working_dir WORK

`prompt.md` and `settings.json` lie beside it; the agent changes the files of WORK/harness. Its last message and how it
ended are written to WORK/harness/.proposal.json, which the host removes again.
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
    """The folders, prompt and limits of one agent run."""

    evidence: Path  # read-only
    work: Path
    harness: Path
    prompt: str
    turns: int  # model calls that the agent may make
    model: str

    def leave(self, words: str, interruption: str = "") -> None:
        """Write the agent's last message and, if it was interrupted, the reason in one line."""
        text = json.dumps({"words": words[:_WORDS], "ended": " ".join(interruption.split())[:500]})
        self.harness.mkdir(exist_ok=True)  # whatever the agent did to it
        (self.harness / ".proposal.json").write_text(text, encoding="utf-8")
        print(f"ended: {interruption or 'by itself'}", file=sys.stderr)


def enter() -> Workspace:
    """Read the arguments and settings, and change to the working directory."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--dataset_dir", type=Path, required=True)
    parser.add_argument("--working_dir", type=Path, required=True)
    arguments = parser.parse_args()
    evidence, work = arguments.dataset_dir.resolve(), arguments.working_dir.resolve()
    settings = json.loads((_HERE / "settings.json").read_text(encoding="utf-8"))
    prompt = (_HERE / "prompt.md").read_text(encoding="utf-8")
    # the sandbox chooses its paths, so the host could not write them
    paths = {"@EVIDENCE@": evidence, "@HARNESS@": work / "harness", "@ASK_HOST@": _HERE / "ask_host.py"}
    for mark, path in paths.items():
        prompt = prompt.replace(mark, os.fspath(path))
    os.chdir(work)
    os.environ["SIA_WORK"] = os.fspath(work)  # for ask_host.py, wherever the agent calls it from
    return Workspace(evidence, work, work / "harness", prompt, settings["turns"], os.environ["SIA_MODEL"])
