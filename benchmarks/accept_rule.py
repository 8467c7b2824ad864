"""How often each accept rule takes a change that changes nothing in truth.

python benchmarks/accept_rule.py [--seeds 10] [--simulations 1000]

In each simulation every question of val differs between candidate and incumbent with a fixed probability, and either
of the two is then right by the toss of a coin. The rules are the product's own. The bootstrap, which draws 1,000
samples for each verdict, gets a tenth of the simulations. Prints the table of docs/architecture.md: the share of all
simulations that are accepted, with Wilson's 95% interval.
"""

import argparse
import random

from _table import aligned

from sia_runner.records import Outcome, OutcomeKind, Status
from sia_runner.selection.scoring import accept_or_reject, wilson_interval

CASES = ((90, 0.05), (90, 0.3), (400, 0.1), (400, 0.3))  # val questions; the share that differs on average
LEVEL = 0.05
RULES = {"ladder": 1.0, "mcnemar": 1.0, "bootstrap": 0.1}  # rule -> its share of the simulations


def useless_change(questions: int, share: float, rng: random.Random) -> tuple[list[Outcome], list[Outcome]]:
    """Outcomes of a candidate and of its incumbent, of which neither is better."""
    right = [Outcome(str(n), OutcomeKind.CORRECT, 1.0) for n in range(questions)]
    wrong = [Outcome(str(n), OutcomeKind.WRONG, 0.0) for n in range(questions)]
    new, old = list(right), list(right)
    for n in range(questions):
        if rng.random() < share:
            rng.choice((new, old))[n] = wrong[n]
    return new, old


def accepted(rule: str, questions: int, share: float, seed: int, simulations: int) -> int:
    """How many of the simulations of one seed the rule accepts."""
    rng = random.Random(f"{seed} {questions} {share}")  # the same changes for every rule
    count = 0
    for simulation in range(simulations):
        new, old = useless_change(questions, share, rng)
        verdict = accept_or_reject(new, old, rule, LEVEL, higher_is_better=True, seed=simulation)
        count += verdict.status == Status.ACCEPTED
    return count


def rate(rule: str, questions: int, share: float, seeds: int, simulations: int) -> str:
    """The share of accepted changes over all seeds: ``16.2% (15.5–16.9)``."""
    each = max(1, round(simulations * RULES[rule]))
    count = sum(accepted(rule, questions, share, seed, each) for seed in range(seeds))
    low, high = wilson_interval(count, seeds * each)
    return f"{100 * count / (seeds * each):.1f}% ({100 * low:.1f}–{100 * high:.1f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--simulations", type=int, default=1000, help="of each seed")
    args = parser.parse_args()
    heads = ["`ladder`", f"`mcnemar`, level {LEVEL:g}", f"`bootstrap`, level {LEVEL:g}"]
    rows = [["val questions", "that differ", *heads]]
    for questions, share in CASES:
        rates = [rate(rule, questions, share, args.seeds, args.simulations) for rule in RULES]
        rows.append([str(questions), f"{share:.0%}", *rates])
    print(aligned(rows))


if __name__ == "__main__":
    main()
