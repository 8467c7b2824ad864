"""Loads tasks and scorers of Inspect AI, from installed packages or from one file, and judges answers with them."""

import importlib.util
import json
import re
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

_LETTERS = re.compile(r"(?:ANSWER\s*:\s*)?([A-Z](?:[ ,]+[A-Z])*|[A-Z]+)\.?", re.IGNORECASE)


def import_file(file: str) -> Any:
    """Import a Python file, which registers what it declares; it may import modules that lie beside it."""
    path = Path(file)
    sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(path.stem, path)
    if spec is None or spec.loader is None:
        raise SystemExit(f"{file}: no Python file")
    module = importlib.util.module_from_spec(spec)
    sys.modules[path.stem] = module
    spec.loader.exec_module(module)
    return module


def load_task(name: str, file: str, args: dict[str, Any]) -> Any:
    """Return the task, built with its arguments. Raises SystemExit with one line where there is none."""
    from inspect_ai.util import registry_create

    if file:
        build = getattr(import_file(file), name, None)
        if build is None:
            raise SystemExit(f"{file} defines no task {name} (task.name)")
        return build(**args)
    try:
        return registry_create("task", name, **args)
    except (LookupError, ValueError) as error:
        package = name.partition("/")[0]
        raise SystemExit(f"no installed package has the task {name}: pip install {package} ({error})") from None


def build_scorer(facts: dict[str, Any]) -> Any:
    """Return the scorer that `scorer.json` names."""
    from inspect_ai.util import registry_create

    if facts["file"]:
        import_file(facts["file"])
    return registry_create("scorer", facts["scorer"], **facts["params"])


class Judge:
    """Scores answers with the scorer of a prepared task."""

    def __init__(self, folder: Path) -> None:
        facts = json.loads((folder / "scorer.json").read_text(encoding="utf-8"))
        self._samples = json.loads((folder / "samples.json").read_text(encoding="utf-8"))
        self._scorer, self._score = build_scorer(facts), facts["score"]

    async def value(self, number: int, text: str) -> float:
        """Return the scorer's value of an answer to a sample. Raises whatever the scorer raises, or ValueError."""
        from inspect_ai.scorer import Target, value_to_float

        sample = self._samples[number]
        score = await self._scorer(self._state(sample, text), Target(sample["target"]))
        value: Any = None if score is None else score.value
        if isinstance(value, dict):
            if self._score not in value:
                raise ValueError(f"the scorer gives several values; task.score names one of: {', '.join(value)}")
            value = value[self._score]
        if value is None or isinstance(value, list):
            raise ValueError("the scorer gives no single value")
        return value_to_float()(value)

    def _state(self, sample: Mapping[str, Any], text: str) -> Any:
        from inspect_ai.model import ChatMessageAssistant, ChatMessageUser, ModelName, ModelOutput
        from inspect_ai.scorer import Target
        from inspect_ai.solver import TaskState
        from pydantic import TypeAdapter

        letters = _LETTERS.fullmatch(text.strip()) if sample["choices"] else None
        answer = f"ANSWER: {letters[1].upper()}" if letters else text
        prompt = sample["input"]
        if isinstance(prompt, str):
            messages = [ChatMessageUser(content=prompt)]
        else:
            from inspect_ai.model import ChatMessage

            messages = prompt = TypeAdapter(list[ChatMessage]).validate_python(prompt)
        state = TaskState(
            model=ModelName("none/none"),
            sample_id=sample["id"],
            epoch=1,
            input=prompt,
            messages=[*messages, ChatMessageAssistant(content=answer)],
            target=Target(sample["target"]),
            choices=sample["choices"],
            output=ModelOutput.from_content("none/none", answer),
            completed=True,
            metadata=dict(sample["metadata"]),
        )
        if letters:
            chosen = {ord(letter) - ord("A") for letter in letters[1].upper() if letter.isalpha()}
            for position in range(len(state.choices)):
                state.choices.mark_choice(position, position in chosen)
        return state
