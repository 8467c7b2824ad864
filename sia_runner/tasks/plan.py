"""The plan of a task's splits, and of the folds that each purpose takes."""

from collections.abc import Iterable, Sequence

from sia_runner.schema.task import Gate, Splits
from sia_runner.tasks.protocol import Purpose, Round, TaskError
from sia_runner.tasks.splits import blocks, cut, folds, sample, shuffled, spread
from sia_runner.tasks.units import Units, group_of

NO_ROLLOUT = (
    "there is no rollout split to train weights on: no labelled row is left for train (splits.dev, splits.val, "
    "splits.test), splits.rollout is 0, or splits.folds is above 1; use trainer=none"
)


class Plan:
    """The splits of one task and one seed.

    With folds > 1 all labelled questions are dev, val or test, and a fold's training data are the other folds. Where
    the shares leave nothing for train, nothing is learned before the final test.
    """

    def __init__(self, units: Units, spec: Splits, gate: Gate, *, grouped: bool, seed: int) -> None:
        self._units, self._spec, self._gate, self._seed = units, spec, gate, seed
        if isinstance(spec.stratify, str) and spec.stratify not in units.columns:
            raise TaskError(f"splits.stratify={spec.stratify} is no column; there are: {', '.join(units.columns)}")
        self._position = {unit: index for index, unit in enumerate([*units.labelled, *units.test])}
        self._blocks = blocks(units.labelled, [units.content, group_of] if grouped else [units.content])
        self.splits = self._cut_with_train() if spec.leaves_train else self._cut_without_train()
        for name in ("train", "dev", "val", "test") if spec.leaves_train else ("dev", "val", "test"):
            if not self.splits[name]:
                raise TaskError(
                    f"split {name} has no question: {len(units.labelled)} labelled rows are too few for these shares, "
                    "or the strata too many (splits.stratify=false)"
                )

    def rounds(self, purpose: Purpose, train_fraction: float, questions: int | None) -> list[Round]:
        """Return the folds of every purpose but `rollout`."""
        split = self.splits
        if purpose == "test":
            return [Round(self._sorted(set(self._position) - set(split["test"])), split["test"])]
        # With folds a trial learns from val units, which it is never asked; dev units are asked and never learned.
        learn = self._sorted(split["val"] if self._spec.folds > 1 else split["train"] + split["rollout"])
        if purpose == "gate":
            train = spread(learn, self._stratum, self._gate.train, seed=self._seed)
            return [Round(train, self._subset(split["dev"], self._gate.questions))]
        if purpose == "trial":
            if train_fraction < 1:
                learn = sample(learn, self._stratum, train_fraction, seed=self._seed)
            return [Round(learn, self._subset(split["dev"], questions))]
        questions_asked = split["dev"] + split["val"]
        if self._spec.folds == 1:
            return [Round(learn, self._sorted(questions_asked))]
        return [Round(self._sorted(set(questions_asked) - set(fold)), self._sorted(fold)) for fold in self._folds()]

    def rollout(self, units: Sequence[str], near: Iterable[Sequence[str]]) -> Round:
        """Return the fold in which `units` of the split rollout are asked.

        `near`: groups of labelled near-duplicates. Whatever is like any rollout question is left out of train, even
        where it is like none of `units`: all steps of a training then show the harness the same train. Raises
        TaskError.
        """
        split = self.splits
        if not split["rollout"]:
            raise TaskError(NO_ROLLOUT)
        foreign = set(units) - set(split["rollout"])
        if foreign or not units or len(set(units)) < len(units):
            problem = f"{min(foreign)!r} is not in it" if foreign else "none was passed, or one of them twice"
            raise TaskError(f"a rollout takes questions of the split rollout, each once: {problem}")
        excluded = set(split["rollout"])
        for group in near:
            if not excluded.isdisjoint(group):
                excluded.update(group)
        train = [unit for unit in split["train"] if unit not in excluded]
        if not train:
            raise TaskError(
                "every row of train says nearly the same as a rollout question: nothing is left to learn from"
            )
        return Round(train, self._sorted(units))

    def _cut_with_train(self) -> dict[str, list[str]]:
        spec = self._spec
        shares = {"test": spec.test, "val": spec.val, "dev": spec.dev}
        evaluated, train = cut(self._blocks, self._stratum, shares, seed=self._seed, keep=2)
        rollout, train = cut(self._blocks_of(train), self._stratum, {"rollout": spec.rollout}, seed=self._seed, keep=1)
        return self._ordered(train=train, rollout=rollout["rollout"], **(evaluated | self._separate_test()))

    def _cut_without_train(self) -> dict[str, list[str]]:
        shares = {"test": self._spec.test, "dev": self._spec.dev}
        evaluated, val = cut(self._blocks, self._stratum, shares, seed=self._seed)
        return self._ordered(train=[], rollout=[], val=val, **(evaluated | self._separate_test()))

    def _folds(self) -> list[list[str]]:
        """Deal dev and val one after the other, so that each fold holds its part of both."""
        parts = [
            folds(self._blocks_of(self.splits[name]), self._stratum, self._spec.folds, seed=self._seed)
            for name in ("dev", "val")
        ]
        return [dev + val for dev, val in zip(*parts, strict=True)]

    def _separate_test(self) -> dict[str, Sequence[str]]:
        return {"test": self._units.test} if self._units.test else {}

    def _blocks_of(self, units: Iterable[str]) -> list[list[str]]:
        chosen = set(units)
        return [block for block in self._blocks if block[0] in chosen]

    def _stratum(self, unit: str) -> str:
        column = self._spec.stratify
        if isinstance(column, str):
            return self._units.fields[unit][self._units.columns.index(column)]
        return self._units.answers[unit] if column else ""

    def _subset(self, units: Sequence[str], limit: int | None) -> list[str]:
        return self._sorted(shuffled(units, self._seed)[:limit])

    def _sorted(self, units: Iterable[str]) -> list[str]:
        return sorted(units, key=self._position.__getitem__)

    def _ordered(self, **splits: Sequence[str]) -> dict[str, list[str]]:
        return {name: self._sorted(splits[name]) for name in ("train", "rollout", "dev", "val", "test")}
