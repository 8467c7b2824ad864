"""The schema of conf/tracker/*.yaml: where figures go while a run is under way."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from sia_runner.schema.parts import Component, Named

Text = Annotated[str, Field(min_length=1)]


class Wandb(Named):
    """Weights & Biases; offline where there is no key."""

    target: Literal["sia_runner.tracking.wandb.Wandb"] = Field(alias="_target_")
    project: Text = "sia-runner"
    entity: Text | None = None  # user or team; null: the key's own default
    group: Text | None = None  # null: the name of the sweep that the run belongs to
    tags: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(default_factory=list)  # beside our own
    artifacts: bool = True  # harnesses and adapters
    texts: bool = False  # titles and rationales: written by a proposer that has seen dev questions and answers
    wait: Annotated[float, Field(ge=0)] = 15.0  # seconds at the end of a run until what is under way is left behind


class Plain(Component):
    """`local`, `none`, or a class of the user's own."""


def _which(tracker: Any) -> str:
    """The schema is chosen by the class, so that a fault names the key and not every alternative."""
    target = tracker.get("_target_") if isinstance(tracker, dict) else tracker.target
    return "Wandb" if target == "sia_runner.tracking.wandb.Wandb" else "Plain"


Tracker = Annotated[Annotated[Wandb, Tag("Wandb")] | Annotated[Plain, Tag("Plain")], Discriminator(_which)]
