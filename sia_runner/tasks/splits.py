"""The splits of a task's questions, and the folds that each purpose takes: seeded, stratified by answer.

Questions that belong together are never cut apart. Order comes from sha256 over (seed, question), so it is the same in
every process, on every machine and Python version.
"""

import hashlib
import math
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeVar

from sia_runner.config.task import GateSize, Splits
from sia_runner.tasks.protocol import Fold, FoldPurpose, TaskError
from sia_runner.tasks.questions import QuestionTable, group_of_id

T = TypeVar("T")
Block = list[str]
_NO_ROLLOUT = (
    "there is no rollout split to train weights on: no labelled row is left for train (splits.dev, splits.val, "
    "splits.test), splits.rollout is 0, or splits.folds is above 1; use trainer=none"
)


def _shuffle_key(unit: str, seed: object) -> bytes:
    return hashlib.sha256(f"{seed}|{unit}".encode()).digest()


def shuffled(units: Sequence[str], seed: object) -> list[str]:
    """Return `units` in seeded order."""
    return sorted(units, key=lambda unit: _shuffle_key(unit, seed))


def connected_blocks(units: Sequence[str], pairs: Iterable[tuple[str, str]]) -> list[Block]:
    """Group the units that pairs connect, directly or through others; groups and members in the order of `units`."""
    parent = {unit: unit for unit in units}

    def root(unit: str) -> str:
        while parent[unit] != unit:
            parent[unit] = parent[parent[unit]]
            unit = parent[unit]
        return unit

    for first, second in pairs:
        parent[root(second)] = root(first)
    by_root: dict[str, Block] = defaultdict(list)
    for unit in units:
        by_root[root(unit)].append(unit)
    return list(by_root.values())


def tied_blocks(units: Sequence[str], ties: Sequence[Callable[[str], str | None]]) -> list[Block]:
    """Group questions that must stay together: those for which some `tie` gives the same key, transitively."""
    first: dict[tuple[int, str], str] = {}
    keyed = [((number, tie(unit)), unit) for number, tie in enumerate(ties) for unit in units]
    pairs = [(first.setdefault((number, key), unit), unit) for (number, key), unit in keyed if key is not None]
    return connected_blocks(units, pairs)


def cut_shares(
    parts: Sequence[Block], stratum: Callable[[str], str], shares: Mapping[str, float], *, seed: int, keep: int = 0
) -> tuple[dict[str, list[str]], list[str]]:
    """Give each name in `shares` its share of the questions, stratum by stratum; return (by name, rest).

    `keep` questions of each stratum stay in the rest, so that a rare class can be learned before it is asked. A
    rounding error is carried to the next stratum: one question at most, or a big stratum would pay for many tiny ones.
    """
    by_name: dict[str, list[str]] = {name: [] for name in shares}
    rest: list[str] = []
    deficit = dict.fromkeys(shares, 0.0)
    for queue in _strata(parts, stratum, seed):
        total = remaining = sum(map(len, queue))
        for name, share in shares.items():
            deficit[name] += share * total
            while queue and deficit[name] >= len(queue[-1]) / 2 and remaining - len(queue[-1]) >= keep:
                block = queue.pop()
                by_name[name] += block
                deficit[name] -= len(block)
                remaining -= len(block)
            deficit[name] = min(deficit[name], 1.0)
        rest += [unit for block in queue for unit in block]
    return by_name, rest


def deal_folds(parts: Sequence[Block], stratum: Callable[[str], str], count: int, *, seed: int) -> list[list[str]]:
    """Deal the blocks into `count` folds: even within each stratum first, then in all."""
    dealt: list[list[str]] = [[] for _ in range(count)]
    for queue in _strata(parts, stratum, seed):
        in_stratum = [0] * count
        for block in queue:
            fold = min(range(count), key=lambda k: (in_stratum[k], len(dealt[k])))
            dealt[fold] += block
            in_stratum[fold] += len(block)
    return dealt


def stratified_sample(units: Sequence[str], stratum: Callable[[str], str], fraction: float, *, seed: int) -> list[str]:
    """Return a stratified share of `units`, in their order; a smaller share is part of a larger one."""
    chosen: set[str] = set()
    for queue in _strata([[unit] for unit in units], stratum, seed):
        chosen.update(unit for [unit] in queue[: math.ceil(fraction * len(queue))])
    return [unit for unit in units if unit in chosen]


def spread_over_strata(units: Sequence[str], stratum: Callable[[str], str], limit: int, *, seed: int) -> list[str]:
    """Return up to `limit` questions, in the order of `units`: two of as many strata as possible, then three, ..."""
    ranked = [
        (max(rank, 1), stratum_index, unit)
        for stratum_index, queue in enumerate(_strata([[unit] for unit in units], stratum, seed))
        for rank, [unit] in enumerate(queue)
    ]
    chosen = {unit for _, _, unit in sorted(ranked)[:limit]}
    return [unit for unit in units if unit in chosen]


def _strata(parts: Sequence[Block], stratum: Callable[[str], str], seed: int) -> Iterator[list[Block]]:
    """Yield the blocks of each stratum (that of a block's first question); strata and blocks in seeded order."""
    queues: dict[str, list[Block]] = defaultdict(list)
    for block in sorted(parts, key=lambda block: _shuffle_key(block[0], seed)):
        queues[stratum(block[0])].append(block)
    for name in shuffled(list(queues), seed):
        yield queues[name]


class SplitPlan:
    """The splits of one task and one seed. With folds > 1 there is no train: a fold learns from the other folds."""

    def __init__(self, units: QuestionTable, spec: Splits, gate: GateSize, *, grouped: bool, seed: int) -> None:
        self._units, self._spec, self._gate, self._seed = units, spec, gate, seed
        if isinstance(spec.stratify, str) and spec.stratify not in units.columns:
            raise TaskError(f"splits.stratify={spec.stratify} is no column; there are: {', '.join(units.columns)}")
        self._position = {unit: index for index, unit in enumerate([*units.labelled, *units.test])}
        self._blocks = tied_blocks(units.labelled, [units.content, group_of_id] if grouped else [units.content])
        self.splits = self._cut()
        for name in ("train", "dev", "val", "test") if spec.has_train_split else ("dev", "val", "test"):
            if not self.splits[name]:
                rows = f"{len(units.labelled)} labelled rows"
                if len(self._blocks) < len(units.labelled):
                    rows += f", of which only {len(self._blocks)} differ (equal ones and groups share a split),"
                raise TaskError(
                    f"split {name} has no question: {rows} are too few for these shares, or the strata too many "
                    "(splits.stratify=false)"
                )

    def rounds(self, purpose: FoldPurpose, train_fraction: float, questions: int | None) -> list[Fold]:
        """Return the folds of every purpose but `rollout`."""
        split = self.splits
        if purpose == "test":
            return [Fold(self._sorted(set(self._position) - set(split["test"])), split["test"])]
        # With folds a trial learns from val units, which it is never asked; dev units are asked and never learned.
        learn = self._sorted(split["val"] if self._spec.folds > 1 else split["train"] + split["rollout"])
        if purpose == "gate":
            train = spread_over_strata(learn, self._stratum, self._gate.train, seed=self._seed)
            return [Fold(train, self._subset(split["dev"], self._gate.questions))]
        if purpose == "trial":
            if train_fraction < 1:
                learn = stratified_sample(learn, self._stratum, train_fraction, seed=self._seed)
            return [Fold(learn, self._subset(split["dev"], questions))]
        dev_and_val = split["dev"] + split["val"]
        if self._spec.folds == 1:
            return [Fold(learn, self._sorted(dev_and_val))]
        dealt = [  # one after the other, so that each fold holds its part of both
            deal_folds(self._blocks_of(split[name]), self._stratum, self._spec.folds, seed=self._seed)
            for name in ("dev", "val")
        ]
        folds = [dev + val for dev, val in zip(*dealt, strict=True)]
        return [Fold(self._sorted(set(dev_and_val) - set(fold)), self._sorted(fold)) for fold in folds]

    def rollout(self, units: Sequence[str], near: Iterable[Sequence[str]]) -> Fold:
        """Return the fold in which `units` of the split rollout are asked.

        `near`: groups of labelled near-duplicates. Whatever is like any rollout question is left out of train: all
        steps of a training then show the harness the same train. Raises TaskError.
        """
        split = self.splits
        if not split["rollout"]:
            raise TaskError(_NO_ROLLOUT)
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
            why = "every row of train says nearly the same as a rollout question"
            raise TaskError(f"{why}: nothing is left to learn from")
        return Fold(train, self._sorted(units))

    def _cut(self) -> dict[str, list[str]]:
        spec = self._spec
        if spec.has_train_split:
            shares = {"test": spec.test, "val": spec.val, "dev": spec.dev}
            by_name, rest = cut_shares(self._blocks, self._stratum, shares, seed=self._seed, keep=2)
            blocks, share = self._blocks_of(rest), {"rollout": spec.rollout}
            rollout, train = cut_shares(blocks, self._stratum, share, seed=self._seed, keep=1)
            by_name |= rollout | {"train": train}
        else:
            shares = {"test": spec.test, "dev": spec.dev}
            by_name, val = cut_shares(self._blocks, self._stratum, shares, seed=self._seed)
            by_name |= {"train": [], "rollout": [], "val": val}
        if self._units.test:
            by_name["test"] = list(self._units.test)
        return {name: self._sorted(by_name[name]) for name in ("train", "rollout", "dev", "val", "test")}

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


def stratified_order(items: Sequence[T], stratum: Callable[[T], Hashable]) -> list[T]:
    """Return all items, ordered so that every prefix represents all strata; the order within one is unchanged.

    A prefix holds each stratum about in proportion to the square root of its size (power allocation, Bankier 1988).
    """
    sizes = Counter(map(stratum, items))
    positions: dict[Hashable, int] = defaultdict(int)
    ranked: list[tuple[float, int, int]] = []
    for number, item in enumerate(items):
        key = stratum(item)
        ranked.append(((positions[key] + 0.5) / math.sqrt(sizes[key]), -sizes[key], number))
        positions[key] += 1
    return [items[number] for *_, number in sorted(ranked)]


def confusion_strata(failures: Sequence[Mapping[str, Any]]) -> Callable[[Mapping[str, Any]], Hashable]:
    """Return a function from a failure of `Task.failures` to its confusion, or its kind if that occurs only once."""
    counts = Counter(map(_confusion, failures))  # so free text, with its many answers, is sampled by kind
    return lambda failure: _confusion(failure) if counts[_confusion(failure)] > 1 else failure["kind"]


def _confusion(failure: Mapping[str, Any]) -> tuple[str, str, str]:
    return failure["kind"], failure["gold"], failure["prediction"]
