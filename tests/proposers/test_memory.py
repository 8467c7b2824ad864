import pytest

from sia_runner.proposers import recipe_space
from sia_runner.proposers.prompting import standard_error
from sia_runner.proposers.protocol import Brief
from sia_runner.proposers.recipe_memory import (
    MeasuredVariant,
    SearchMemory,
    difference_error,
    select_variant,
    worse_than_incumbent,
)
from sia_runner.proposers.recipe_space import Space, Variant
from sia_runner.proposers.recipe_study import VariantStudy
from sia_runner.records import Lever, PastGeneration, Score, Trial
from tests.proposers.synthetic import write_task


@pytest.fixture(scope="module")
def space(tmp_path_factory) -> Space:
    loaded = recipe_space.load_space(write_task(tmp_path_factory.mktemp("memory") / "task").task_folder / "recipes")
    assert loaded is not None
    return loaded


def decoy(depth: int) -> Variant:
    return Variant("decoy", {"DEPTH": depth})


def trial(
    variant: Variant, value: float, fraction: float = 1.0, seconds: float = 1.0, failure: str = ""
) -> MeasuredVariant:
    return MeasuredVariant(variant, fraction, Trial(value, 100, seconds, failure))


def past(n: int, status: str, variant: Variant, val: float | None, *trials: MeasuredVariant) -> PastGeneration:
    notes = {"recipe": variant.recipe, "constants": variant.constants, "trials": [t.to_json() for t in trials]}
    return PastGeneration(
        n, Lever.HARNESS, "t", status, "r", Score(val, (0, 1), 200) if val is not None else None, notes
    )


def remember(space: Space, *history: PastGeneration, incumbent: int | None = 2, higher: bool = True) -> SearchMemory:
    return SearchMemory(Brief(9, 9, None, history, incumbent, higher), space)


def test_what_val_rejected_sinks_below_what_val_never_saw(space):
    """Both looked equal on dev; val, .05 harder for the accepted one, was .15 lower for the rejected one."""
    memory = remember(
        space,
        past(2, "accepted", decoy(4), 0.75, trial(decoy(4), 0.80), trial(decoy(5), 0.80), trial(decoy(6), 0.80)),
        past(3, "rejected", decoy(5), 0.65),
    )
    told = {key: merit or 0.0 for key, merit in memory.merits(1.0).items()}
    assert told[decoy(5).key] == pytest.approx((100 * 0.80 + 200 * (0.65 + 0.10)) / 300)
    assert told[decoy(5).key] < told[decoy(6).key] < told[decoy(4).key]


def test_a_failed_candidate_and_a_failed_trial_are_told_as_failures(space):
    failing = trial(decoy(7), 0.0, failure="crashed")
    memory = remember(space, past(2, "failed", decoy(4), None, trial(decoy(4), 0.9), failing), incumbent=None)
    assert memory.merits(1.0) == {decoy(4).key: None, decoy(7).key: None}
    assert memory.unproposed(1.0) == []


def test_an_unscored_candidate_keeps_what_dev_said_of_it(space):
    memory = remember(space, past(2, "unscored", decoy(4), None, trial(decoy(4), 0.9)), incumbent=None)
    assert memory.merits(1.0) == {decoy(4).key: 0.9}


def test_rejections_count_from_the_incumbent(space):
    history = [past(n, "rejected", decoy(n), 0.5) for n in (3, 4, 5)]
    assert remember(space, past(2, "accepted", decoy(2), 0.6), *history).rejections == 3
    assert remember(space, past(2, "accepted", decoy(2), 0.6)).rejections == 0


def test_notes_of_a_space_that_has_changed_since_are_left_out(space):
    gone = [Variant("gone", {}), Variant("decoy", {"DEPTH": 99}), Variant("decoy", {"OTHER": 1})]
    memory = remember(space, *(past(n, "rejected", v, 0.5, trial(v, 0.5)) for n, v in enumerate(gone, start=2)))
    assert memory.tried_keys() == set() and memory.incumbent is None


def test_the_study_is_told_every_kind_of_trial(space):
    dropped = Variant("rich", {"C": 1.0, "SIZE": 3, "MODE": "fast"})
    memory = remember(
        space,
        past(2, "accepted", decoy(4), 0.7, trial(decoy(4), 0.8), trial(dropped, 0.5, fraction=0.25)),
        past(3, "failed", decoy(9), None),
    )
    trials = VariantStudy(space, memory, [0.25, 1.0], seed=0)._study.trials
    states = {t.params.get("decoy.DEPTH", "rich"): t.state.name for t in trials}
    assert states == {4: "COMPLETE", 9: "PRUNED", "rich": "PRUNED"}
    assert [t.intermediate_values for t in trials if "rich.C" in t.params] == [{0: 0.5}]


def test_the_study_draws_nearer_to_what_was_good_and_a_batch_spreads_out(space):
    """Deep decoys are good, plain is bad, rich was never tried: asks go to deep decoys and to some of rich."""
    good = [trial(decoy(depth), 0.5 + depth / 20) for depth in range(1, 10)]
    bad = [trial(Variant("plain", {"RATE": rate}), 0.1) for rate in (0.02, 0.05, 0.1, 0.2, 0.5, 0.9)]
    study = VariantStudy(space, remember(space, past(2, "accepted", decoy(9), 0.9, *good, *bad)), [1.0], seed=1)
    asked = [study.ask() for _ in range(40)]
    recipes = [variant.recipe for variant in asked]
    assert recipes.count("decoy") > 10 and recipes.count("rich") > 3 and recipes.count("plain") < 10
    depths = [v.constants["DEPTH"] for v in asked if v.recipe == "decoy"]
    assert sum(depth in (5, 6, 7, 8, 9) for depth in depths) > 0.6 * len(depths)


def selected(space: Space, *trials: MeasuredVariant, baseline: float | None = 0.5, higher: bool = True):
    memory = remember(space, past(2, "unscored", decoy(9), None, *trials), incumbent=None, higher=higher)
    return memory, select_variant(memory, 1.0, baseline)


RICH = Variant("rich", {"C": 1.0, "SIZE": 3, "MODE": "fast"})


def test_a_simpler_recipe_wins_within_noise_only(space):
    _, near = selected(space, trial(RICH, 0.80), trial(decoy(4), 0.79))
    _, far = selected(space, trial(RICH, 0.80), trial(decoy(4), 0.70))
    assert near and near.chosen.variant == decoy(4) and near.best.variant == RICH
    assert far and far.chosen.variant == RICH


def test_a_much_faster_variant_wins_within_noise(space):
    _, found = selected(space, trial(decoy(4), 0.80, seconds=10), trial(decoy(5), 0.79, seconds=4))
    assert found and found.chosen.variant == decoy(5)


def test_being_simple_is_no_reason_to_fall_behind_the_incumbent(space):
    _, found = selected(space, trial(RICH, 0.80), trial(decoy(4), 0.79), baseline=0.795)
    assert found and found.chosen.variant == RICH


def test_worse_than_the_incumbent_by_more_than_noise_is_hopeless(space):
    for value, higher, verdict in ((0.4, True, True), (0.49, True, False), (0.4, False, False), (0.6, False, True)):
        memory, found = selected(space, trial(decoy(4), value), baseline=0.5, higher=higher)
        assert found and worse_than_incumbent(memory, found) is verdict


def test_noise_is_that_of_proportions_and_nothing_on_other_scales():
    assert standard_error(0.5, 100) == pytest.approx(0.05)
    assert difference_error(0.5, 0.5, 100) == pytest.approx(0.05 * (2 * 0.3) ** 0.5)
    assert standard_error(12.0, 100) == 0.0 == difference_error(3.0, 4.0, 100)
