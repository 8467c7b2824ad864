"""Which units are train, rollout, dev, val and test, and which runs of a harness each purpose takes."""

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

    With folds > 1 all labelled units are dev, val or test, and a round's training data are the other folds. Where the
    shares leave nothing for train, nothing is learned before the final test.
    """

    def __init__(self, units: Units, spec: Splits, gate: Gate, *, grouped: bool, seed: int) -> None:
        self._units, self._spec, self._gate, self._seed = units, spec, gate, seed
        if isinstance(spec.stratify, str) and spec.stratify not in units.columns:
            raise TaskError(f"splits.stratify={spec.stratify} is no column; there are: {', '.join(units.columns)}")
        self._place = {unit: place for place, unit in enumerate([*units.labelled, *units.test])}
        self._blocks = blocks(units.labelled, [units.content, group_of] if grouped else [units.content])
        self.splits = self._held_out() if spec.leaves_train else self._all_asked()
        for name in ("train", "dev", "val", "test") if spec.leaves_train else ("dev", "val", "test"):
            if not self.splits[name]:
                raise TaskError(
                    f"split {name} has no question: {len(units.labelled)} labelled rows are too few for these shares, "
                    "or the strata too many (splits.stratify=false)"
                )

    def rounds(self, purpose: Purpose, train_fraction: float, questions: int | None) -> list[Round]:
        """All purposes but `rollout`."""
        split = self.splits
        if purpose == "test":
            return [Round(self._sorted(set(self._place) - set(split["test"])), split["test"])]
        # With folds a trial learns from val units, which it is never asked; dev units are asked and never learned.
        learn = self._sorted(split["val"] if self._spec.folds > 1 else split["train"] + split["rollout"])
        if purpose == "gate":
            few = spread(learn, self._stratum, self._gate.train, seed=self._seed)
            return [Round(few, self._some(split["dev"], self._gate.questions))]
        if purpose == "trial":
            if train_fraction < 1:
                learn = sample(learn, self._stratum, train_fraction, seed=self._seed)
            return [Round(learn, self._some(split["dev"], questions))]
        asked = split["dev"] + split["val"]
        if self._spec.folds == 1:
            return [Round(learn, self._sorted(asked))]
        return [Round(self._sorted(set(asked) - set(fold)), self._sorted(fold)) for fold in self._folds()]

    def rollout(self, units: Sequence[str], near: Iterable[Sequence[str]]) -> Round:
        """`near`: groups of labelled units that say nearly the same. What is like a rollout unit is never taught, even
        where it is like none of `units`: all steps of a training then show the harness one and the same train.

        Raises TaskError.
        """
        split = self.splits
        if not split["rollout"]:
            raise TaskError(NO_ROLLOUT)
        strangers = set(units) - set(split["rollout"])
        if strangers or not units or len(set(units)) < len(units):
            what = f"{min(strangers)!r} is none" if strangers else "none is given, or one twice"
            raise TaskError(f"rollouts are asked units of the split rollout, each once; {what}")
        spoiled = set(split["rollout"])
        for group in near:
            if not spoiled.isdisjoint(group):
                spoiled.update(group)
        train = [unit for unit in split["train"] if unit not in spoiled]
        if not train:
            raise TaskError(
                "every row of train says nearly the same as a rollout question: nothing is left to learn from"
            )
        return Round(train, self._sorted(units))

    def _held_out(self) -> dict[str, list[str]]:
        spec = self._spec
        shares = {"test": spec.test, "val": spec.val, "dev": spec.dev}
        asked, train = cut(self._blocks, self._stratum, shares, seed=self._seed, keep=2)
        kept_back, train = cut(self._within(train), self._stratum, {"rollout": spec.rollout}, seed=self._seed, keep=1)
        return self._named(train=train, rollout=kept_back["rollout"], **(asked | self._own_test()))

    def _all_asked(self) -> dict[str, list[str]]:
        shares = {"test": self._spec.test, "dev": self._spec.dev}
        asked, val = cut(self._blocks, self._stratum, shares, seed=self._seed)
        return self._named(train=[], rollout=[], val=val, **(asked | self._own_test()))

    def _folds(self) -> list[list[str]]:
        """dev and val dealt one after the other, so that each fold holds its part of both."""
        parts = [
            folds(self._within(self.splits[name]), self._stratum, self._spec.folds, seed=self._seed)
            for name in ("dev", "val")
        ]
        return [dev + val for dev, val in zip(*parts, strict=True)]

    def _own_test(self) -> dict[str, Sequence[str]]:
        return {"test": self._units.test} if self._units.test else {}

    def _within(self, units: Iterable[str]) -> list[list[str]]:
        chosen = set(units)
        return [block for block in self._blocks if block[0] in chosen]

    def _stratum(self, unit: str) -> str:
        by = self._spec.stratify
        if isinstance(by, str):
            return self._units.fields[unit][self._units.columns.index(by)]
        return self._units.answers[unit] if by else ""

    def _some(self, units: Sequence[str], most: int | None) -> list[str]:
        return self._sorted(shuffled(units, self._seed)[:most])

    def _sorted(self, units: Iterable[str]) -> list[str]:
        return sorted(units, key=self._place.__getitem__)

    def _named(self, **splits: Sequence[str]) -> dict[str, list[str]]:
        return {name: self._sorted(splits[name]) for name in ("train", "rollout", "dev", "val", "test")}
