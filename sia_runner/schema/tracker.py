"""The schema of conf/tracker/*.yaml says where metrics go during a run."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag

from sia_runner.schema.parts import Component, Named, NonEmptyText


class Wandb(Named):
    """Settings of `wandb`, Weights & Biases; offline without a key."""

    target: Literal["sia_runner.tracking.wandb.Wandb"] = Field(alias="_target_")
    project: NonEmptyText = "sia-runner"
    entity: NonEmptyText | None = None  # user or team; null: the key's own default
    group: NonEmptyText | None = None  # null: the name of the sweep that the run belongs to
    tags: list[Annotated[str, Field(min_length=1, max_length=64)]] = Field(default_factory=list)  # in addition to ours
    artifacts: bool = True  # harnesses and adapters
    texts: bool = False  # titles and rationales; their author, the proposer, has seen dev questions and answers
    wait: Annotated[float, Field(ge=0)] = 15.0  # seconds to wait for uploads at the end of a run


class Plain(Component):
    """Settings of `local`, `none`, or of a class of the user's own."""


def _tracker_schema(tracker: Any) -> str:
    """Choose the schema by the class, so that an error names the key and not every alternative."""
    target = tracker.get("_target_") if isinstance(tracker, dict) else tracker.target
    return "Wandb" if target == "sia_runner.tracking.wandb.Wandb" else "Plain"


Tracker = Annotated[Annotated[Wandb, Tag("Wandb")] | Annotated[Plain, Tag("Plain")], Discriminator(_tracker_schema)]
