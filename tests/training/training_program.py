"""One training of the toy as a program of its own, to be killed, or started twice by torchrun.

python -m tests.training.training_program MODEL FOLDER ALGORITHM JSON-SETTINGS
"""

import json
import os
import sys
import time
from pathlib import Path


def main(model: str, folder: str, algorithm: str, changes: str) -> None:
    import torch
    from transformers import Qwen3ForCausalLM

    from sia_runner.training import drivers
    from tests.training import toy

    if os.environ.get("RANK", "0") != "0":
        look_late()
    torch.set_num_threads(1)
    policy = toy.ToyPolicy(Qwen3ForCausalLM.from_pretrained(model).eval(), toy.small_tokenizer())
    settings = toy.settings(algorithm, **json.loads(changes))
    train = drivers.train
    one = toy.assignment(policy, settings, Path(folder), say=lambda line: print(line, flush=True))
    trained = train(one)
    if os.environ.get("RANK", "0") == "0":  # two processes on one pipe would write into each other's line
        print("done", json.dumps([trained.steps, list(trained.reward), list(trained.kl)]), flush=True)


def look_late() -> None:
    """The first process may be a second ahead of the others; what it has written by then is not where they start."""
    from sia_runner.training.checkpoints import CheckpointStore

    latest = CheckpointStore.latest
    CheckpointStore.latest = lambda *args: time.sleep(1.0) or latest(*args)


def into(path: str, *args: str) -> None:
    """What it prints goes to a file."""
    with open(path, "w", encoding="utf-8") as sys.stdout:
        main(*args)


if __name__ == "__main__":
    main(*sys.argv[1:])
