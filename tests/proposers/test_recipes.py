"""The strategy against a task whose response surface is known."""

import random

import pytest

from sia_runner.proposers import recipe_space
from sia_runner.proposers.protocol import Brief, ProposerContext, ProposerError
from sia_runner.proposers.recipes import Recipes
from sia_runner.records import Lever, PastGeneration, Trial
from tests.proposers.synthetic import (
    ENTRY,
    OPTIMUM,
    QUESTIONS,
    Bench,
    expected,
    experiment,
    judge,
    observe,
    recipes,
    write_task,
)

SEEDS = range(10)


@pytest.fixture(scope="module")
def context(tmp_path_factory) -> ProposerContext:
    return write_task(tmp_path_factory.mktemp("task") / "synthetic")


@pytest.fixture(scope="module")
def noisy_runs(context):
    """Ten experiments of six generations: (score of the last incumbent, cost in full trials)."""
    results = []
    for seed in SEEDS:
        bench = Bench(noisy=True)
        proposals, history = experiment(recipes(context, seed), bench, 6)
        best = [p for p, past in zip(proposals, history, strict=False) if past.status == "accepted"][-1]
        results.append((expected(best.files), sum(fraction for _, fraction in bench.asked)))
    return results


def random_search(context: ProposerContext, seed: int, cost: float) -> float:
    """True score of the best on dev of `cost` random variants, each tried with all training data."""
    space, rng = recipe_space.load_space(context.task_folder / "recipes"), random.Random(seed)
    assert space is not None
    tried = [rng.choice(list(space.recipes.values())).sample(rng) for _ in range(round(cost))]
    files = [{ENTRY: space.program(variant)} for variant in tried]
    return expected(max(files, key=lambda f: observe(expected(f), f, "dev", 250)))


def test_the_first_generation_is_the_reference_harness_and_costs_no_trial(context):
    bench = Bench()
    proposals, _ = experiment(recipes(context), bench, 1)
    assert proposals[0].files == {ENTRY: 'NAME = "reference"\n'}
    assert bench.asked == []


def test_breadth_tries_every_recipe_on_little_data_and_a_third_of_them_on_all(context):
    bench = Bench()
    proposals, _ = experiment(recipes(context), bench, 2)
    assert [fraction for _, fraction in bench.asked] == [0.25] * 8 + [1.0] * 2
    assert len({program.split("\n")[0] for program, fraction in bench.asked if fraction == 1.0}) == 2, "two recipes"
    assert {t["recipe"] for t in proposals[1].notes["trials"]} == {"plain", "decoy", "rich"}


def test_without_noise_the_optimum_is_found_in_eight_generations_by_nine_seeds_of_ten(context):
    found = [experiment(recipes(context, seed), Bench(), 8) for seed in SEEDS]
    best = [max(expected(p.files) for p in proposals if p.files) for proposals, _ in found]
    assert sum(value > OPTIMUM - 0.01 for value in best) >= 9, best


def test_with_noise_it_beats_random_search_at_equal_cost(context, noisy_runs):
    ours = [score for score, _ in noisy_runs]
    theirs = [
        random_search(context, 100 * seed + i, cost) for seed, (_, cost) in enumerate(noisy_runs) for i in range(20)
    ]
    assert sum(ours) / len(ours) > sum(theirs) / len(theirs) + 0.01


def test_no_variant_is_proposed_or_tried_twice(context):
    bench = Bench(noisy=True)
    proposals, _ = experiment(recipes(context, seed=3), bench, 8)
    texts = [p.files[ENTRY] for p in proposals]
    assert len(set(texts)) == len(texts) == 8
    assert len(set(bench.asked)) == len(bench.asked)
    notes = [(t["recipe"], str(t["constants"]), t["fraction"]) for p in proposals for t in p.notes.get("trials", [])]
    assert len(set(notes)) == len(notes) == len(bench.asked), "what notes hold is not asked of the workbench again"


def test_before_a_lost_cause_is_proposed_the_next_best_are_tried_on_all_data(context):
    class Misleading(Bench):
        def _run(self, files, fraction):
            return Trial(0.5 if fraction == 1.0 else 0.9, QUESTIONS, 1.0)

    incumbent = {"recipe": "decoy", "constants": {"DEPTH": 4}}
    result = {"value": 0.8, "n": QUESTIONS, "seconds": 1.0, "failure": ""}
    notes = incumbent | {"trials": [incumbent | result | {"fraction": fraction} for fraction in (0.25, 1.0)]}
    accepted = PastGeneration(2, Lever.HARNESS, "t", "accepted", "better", None, notes)
    bench = Misleading()
    proposal = recipes(context).propose(Brief(3, 9, None, (accepted,), 2, True), bench)
    assert [fraction for _, fraction in bench.asked] == [0.25] * 8 + [1.0] * 2 * 2
    assert "Dev says it is worse than the incumbent (-0.300); nothing better was found" in proposal.improvement


def test_a_failing_recipe_is_reported_and_avoided(context):
    bench = Bench(failing=frozenset({'"rich"'}))
    proposals, _ = experiment(recipes(context), bench, 5)
    assert not any('"rich"' in p.files[ENTRY] for p in proposals)
    assert "crashed: ValueError: no luck" in proposals[1].improvement
    assert not any('"rich"' in program for program, fraction in bench.asked if fraction == 1.0)


def test_when_every_trial_fails_it_stops_with_the_reason(context):
    proposals, _ = experiment(recipes(context), Bench(failing=frozenset({"NAME"})), 5)
    assert [p.lever for p in proposals] == [Lever.HARNESS, Lever.STOP]
    assert "8 variants failed on dev questions, the last with: crashed: ValueError: no luck" in proposals[1].rationale


def test_an_exhausted_space_stops_after_each_variant_was_tried(tmp_path):
    context = write_task(tmp_path / "task")
    folder = context.task_folder / "recipes"
    folder.joinpath("recipes.yaml").write_text(
        "recipes: {decoy: {file: decoy.py, title: t, idea: i, constants: {DEPTH: {low: 1, high: 9, default: 4}}}}"
    )
    bench = Bench()
    proposals, _ = experiment(recipes(context, rungs=[1.0]), bench, 20)
    assert len({program for program, _ in bench.asked}) == 9
    assert proposals[-1].lever is Lever.STOP
    assert "every variant of the recipes was tried" in proposals[-1].rationale
    assert max(expected(p.files) for p in proposals if p.files) == 0.74


def test_a_task_without_recipes_proposes_its_reference_and_stops(tmp_path):
    context = write_task(tmp_path / "task")
    context.task_folder.joinpath("recipes", "recipes.yaml").unlink()
    proposals, _ = experiment(recipes(context), Bench(), 5)
    assert [p.lever for p in proposals] == [Lever.HARNESS, Lever.STOP]
    assert proposals[1].rationale.startswith("task synthetic declares no recipes; expected recipes/recipes.yaml")


def test_a_reference_that_is_a_recipe_at_its_defaults_is_not_proposed_again(tmp_path):
    context = write_task(tmp_path / "task")
    program = (context.task_folder / "recipes" / "decoy.py").read_text()
    (context.reference / ENTRY).write_text(program)
    proposals, _ = experiment(recipes(context), Bench(), 4)
    assert proposals[0].notes["recipe"] == "decoy"
    assert [p.files[ENTRY] for p in proposals].count(program) == 1


def test_within_noise_the_simpler_recipe_is_preferred_if_it_beats_the_incumbent(tmp_path):
    """decoy stands before rich in the file; rich is better by less than the noise of 500 questions."""
    context = write_task(tmp_path / "task")
    yaml = context.task_folder / "recipes" / "recipes.yaml"
    program = context.task_folder / "recipes" / "rich.py"
    yaml.write_text(
        yaml.read_text()
        .replace('default: 0.1, says: "a pen', 'default: 1.0, says: "a pen')
        .replace("high: 8, default: 2", "high: 8, default: 3")
    )
    program.write_text(program.read_text().replace("C = 0.1", "C = 1.0").replace("SIZE = 2", "SIZE = 3"))
    proposals, history = experiment(recipes(context, trials=3, rungs=[1.0]), Bench(), 2)
    assert "rich scored 0.741; that is better by less than noise" in proposals[1].rationale
    assert proposals[1].title == "decoy at its defaults"
    assert judge(2, proposals[1], history[0]).status == "accepted"


def test_a_lower_is_better_metric_is_minimised(context):
    class Errors(Bench):
        def try_out(self, batch, *, share, questions=None):
            trials = super().try_out(batch, share=share, questions=questions)
            return [type(t)(1 - t.value, t.n, t.seconds, t.failure) for t in trials]

    bench = Errors()
    first = PastGeneration(1, Lever.HARNESS, "reference", "accepted", "first", None, {})
    notes = recipes(context).propose(Brief(2, 5, None, (first,), 1, higher_is_better=False), bench).notes
    tried = {t["value"] for t in notes["trials"] if t["fraction"] == 1.0}
    [chosen] = [t for t in notes["trials"] if t["fraction"] == 1.0 and t["constants"] == notes["constants"]]
    assert chosen["value"] == min(tried)


def test_rungs_that_do_not_rise_are_refused(context):
    with pytest.raises(ProposerError, match=r"meta_agent.rungs=\[1.0, 0.25\] must rise"):
        Recipes(context, trials=8, rungs=[1.0, 0.25], keep=0.3, questions=None)
