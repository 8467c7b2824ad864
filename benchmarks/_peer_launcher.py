"""Starts sia-agent with an instant proposer; runs in sia-agent's own environment: HARNESSES [its arguments].

Its default agent implementation is replaced, as its registry allows, by one that copies the next file of HARNESSES.
Everything else is sia-agent's own code.
"""

import shutil
import sys
from pathlib import Path


def main() -> None:
    harnesses = Path(sys.argv.pop(1))
    # As late as sia-agent's own `sia` command imports it.
    from sia.agent_impls import register  # pyright: ignore[reportMissingImports]
    from sia.orchestrator import main as sia  # pyright: ignore[reportMissingImports]

    async def instant(model: str, turns: str, prompt: str, folder: str, **_: object) -> None:
        proposed = harnesses / Path(folder).name / "target_agent.py"
        if proposed.is_file():  # not so for its request to summarise what changed, which no file answers
            shutil.copy(proposed, folder)

    register("claude", instant)
    sia()


if __name__ == "__main__":
    main()
