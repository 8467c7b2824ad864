"""The forecast of a run's cost: sizes from the task, stated assumptions, unknown prices reported as unknown."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from sia_runner.__main__ import main
from sia_runner.commands.estimate import measure_task
from sia_runner.config.experiment import BudgetConfig, check_experiment
from sia_runner.experiment.costs import (
    ASSUMPTIONS,
    TaskSizes,
    budget_lines,
    forecast_run,
    forecast_update,
    limit_lines,
    role_dollars,
    total_dollars,
    update_dollars,
    update_line,
)
from tests.config.test_providers import composed

SIZES = TaskSizes(gate=8, trial=60, select=180, rounds=1, test=200, question_bytes=400)
PRICED = ["provider=custom", "provider.base_url=http://localhost:9/v1", "provider.model=m"]
PRICED += ["provider.prices={input: 1.0, output: 2.0}"]


def config(*overrides):
    return check_experiment(composed(*PRICED, *overrides))


def forecasts(experiment):
    return {name: forecast_run(experiment, SIZES, name) for name in ASSUMPTIONS}


@pytest.fixture
def command(monkeypatch, capsys):
    """The command in this process: what it prints and its exit code."""

    def call(*args):
        monkeypatch.setenv("PIP_NO_INDEX", "0")  # restored after the command has set it
        code = main(["estimate", *args])
        return code, *capsys.readouterr()

    return call


def test_a_limit_that_the_models_are_too_slow_for_is_said_before_the_start():
    short = config("task.limits.run=60", "task.limits.gate=60")
    (line,) = limit_lines(short, SIZES)
    assert line.startswith("task.limits.run=60 · too short: the answers to 200 questions take ")
    assert limit_lines(config("task.limits.run=7200", "task.limits.gate=60"), SIZES) == []


def test_the_sizes_are_those_of_the_tasks_own_questions():
    sizes = measure_task(check_experiment(composed("task=smoke")))
    assert (sizes.gate, sizes.trial, sizes.select, sizes.test, sizes.rounds) == (8, 60, 180, 200, 1)
    assert 20 < sizes.question_bytes < 200


def test_low_is_below_expected_and_expected_below_high_in_every_figure():
    low, expected, high = forecasts(config("meta_agent=llm")).values()
    for less, more in ((low, expected), (expected, high)):
        for figure in ("calls", "input_tokens", "output_tokens", "seconds"):
            assert getattr(less.total, figure) <= getattr(more.total, figure), figure


def test_the_low_case_counts_one_call_for_every_question_that_is_asked():
    low = forecasts(config("max_gen=3"))["low"]  # recipes: a fifth of 8 trials on all dev questions, no proposer's call
    assert low.meta.calls == 0
    assert low.target.calls == 3 * (2 * 60 + 8 + 180) + 200
    assert low.target.input_tokens == low.target.calls * (100 + 100)


def test_more_generations_and_more_width_cost_more():
    single = forecasts(config("meta_agent=llm", "max_gen=2"))["expected"]
    two = forecasts(config("meta_agent=llm", "max_gen=4"))["expected"]
    wide = forecasts(config("meta_agent=llm", "max_gen=2", "search.proposals_per_generation=3"))["expected"]
    assert two.meta.calls == 2 * single.meta.calls and wide.meta.calls == 3 * single.meta.calls
    assert wide.meta.seconds == single.meta.seconds  # side by side


def hosted(*overrides):
    return check_experiment(composed("meta_agent=llm", "provider=openai", *overrides))


def test_of_several_models_of_the_proposer_the_dearest_is_counted():
    models = "search.proposer_models=[gpt-4o-mini,gpt-4o]"
    several, dear = (hosted(more) for more in (models, "provider.model=gpt-4o"))
    case = forecasts(dear)["expected"]
    assert role_dollars(several, case, "meta") == role_dollars(dear, case, "meta") > 0
    unknown = hosted("search.proposer_models=[gpt-4o,nobody-knows]")
    assert role_dollars(unknown, case, "meta") is None


def test_patience_shortens_the_low_case_only():
    early = forecasts(config("max_gen=10", "search.patience=2"))
    assert [case.generations for case in early.values()] == [3, 10, 10]


def test_an_answer_is_never_longer_than_max_tokens_and_a_run_never_longer_than_its_limit():
    high = forecasts(config("provider.max_tokens=50"))["high"]
    assert high.target.output_tokens == 50 * high.target.calls
    assert high.parts["select"].seconds <= config().task.limits.run


def test_dollars_are_tokens_times_prices_and_unknown_prices_stay_unknown():
    experiment = config()
    low = forecasts(experiment)["low"]
    usd = low.target.input_tokens * 1e-6 + low.target.output_tokens * 2e-6
    assert total_dollars(experiment, low) == pytest.approx(usd, rel=0.01)
    assert total_dollars(config("provider.prices=null"), low) is None


def test_what_a_budget_would_cut_is_said():
    experiment = config("max_gen=4", "budget.calls=800", "budget.usd=1000", "budget.generation.calls=100")
    lines = budget_lines(experiment, forecasts(experiment))
    assert lines[0] == "budget.usd=1000 · low: enough · expected: enough · high: enough"
    assert lines[1].startswith("budget.calls=800 · low: ends in generation 2 of 4")
    assert lines[2] == "budget.generation.calls=100 · cuts a generation in the case low, expected, high"
    assert config().budget == BudgetConfig() and budget_lines(config(), forecasts(config())) == []


def test_a_dollar_limit_without_prices_says_so():
    experiment = config("provider.prices=null", "budget.usd=1")
    assert "expected: prices unknown" in budget_lines(experiment, forecasts(experiment))[0]


def test_the_command_prints_a_table_with_its_assumptions(tmp_path):
    line = [sys.executable, "-m", "sia_runner", "estimate", *PRICED, "meta_agent=llm", "budget.usd=0.01"]
    done = subprocess.run(line, capture_output=True, text=True, check=False, timeout=60, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for part in ("expected", "USD · proposer (m)", "calls · select", "assumed of a harness", "budget.usd=0.01"):
        assert part in done.stdout
    assert "waiting for models" in done.stdout and not list(tmp_path.iterdir())


def test_the_command_has_a_form_for_programs(command):
    code, out, _ = command(*PRICED, "--json")
    report = json.loads(out)
    assert code == 0 and report["cases"]["low"]["usd"] < report["cases"]["high"]["usd"]
    assert report["roles"]["target"] == {"provider": "custom", "model": "m", "priced": True}


def test_an_experiment_without_models_costs_nothing(command):
    code, out, _ = command()
    assert code == 0 and "no model is called, nothing is spent" in " ".join(out.split())


def test_a_policy_on_this_machine_is_called_and_costs_no_dollars():
    """Also where a provider is named, which the proposer calls."""
    experiment = config("trainer=grpo", "meta_agent=llm", "target_agent.policy.max_tokens=100", "budget.minutes=1")
    cases = forecasts(experiment)
    low, expected = cases["low"], cases["expected"]
    assert low.target.calls > 180 and low.target.output_tokens == 100 * low.target.calls
    assert role_dollars(experiment, expected, "target") == 0 and total_dollars(experiment, expected)
    assert not expected.timed and expected.target.seconds == 0
    assert budget_lines(experiment, cases) == ["budget.minutes=1 · the policy's speed is not known"]


def test_the_seconds_of_a_policy_come_from_its_speed():
    experiment = config("trainer=grpo", "target_agent.policy.max_tokens=100", "task.limits.run=60")
    fast, slow = (replace(SIZES, policy_speed=speed) for speed in (1000, 100))
    expected = forecast_run(experiment, fast, "expected")
    assert expected.timed and expected.parts["select"].seconds == pytest.approx(180 * 100 / 1000)
    assert limit_lines(experiment, fast) == []
    (line,) = limit_lines(experiment, slow)
    assert line.startswith("task.limits.run=60 · too short: ") and line.endswith(" at 100 tokens a second")


def test_the_command_says_what_the_policy_does_and_takes_its_speed_from_an_earlier_run(command, earlier_runs):
    code, out, _ = command("trainer=grpo")
    assert code == 0 and "calls the policy tiny (peft): USD 0; its speed is not known" in out
    assert "each update of the weights adds up to 8,192 rollouts" in out
    report = json.loads(command("trainer=grpo", "--json")[1])
    assert report["roles"]["target"] == {"provider": "policy", "model": "tiny", "priced": True}
    assert report["cases"]["low"]["seconds"] is None and report["cases"]["low"]["calls"] > 180

    measured = json.loads(command("trainer=grpo", "--json", "--like", str(earlier_runs / "sia_wh"))[1])
    assert measured["sizes"]["policy_speed"] == pytest.approx(1045, abs=1)
    assert measured["cases"]["low"]["seconds"] > 0
    code, _, err = command("trainer=grpo", "--like", str(earlier_runs / "sia_h"))
    assert code == 2 and "no scored harness called a model in this run" in err


def test_data_that_is_not_there_is_not_fetched(command, tmp_path, monkeypatch):
    monkeypatch.setenv("SIA_CACHE", str(tmp_path / "empty"))
    code, _, err = command("task=lawbench", *PRICED)
    assert code == 2 and "python -m sia_runner prepare task=lawbench" in err


def test_a_wrong_configuration_is_refused_as_a_run_would_be(command):
    assert command("max_gen=0") == (2, "", "refused: max_gen=0: input should be greater than or equal to 1\n")
    assert command("provider=opnai")[2].startswith("refused: provider=opnai: no such choice; did you mean")


TINKER = ["task=lawbench", "policy=tinker", "target_agent.policy.base=openai/gpt-oss-120b"]


def test_an_update_by_a_service_is_counted_in_calls_tokens_and_dollars():
    """By hand: 40 steps of 16 questions with 8 samples are 5,120 calls of 500 + 1,000 tokens. Each row is read once
    and trained once; every eighth is also scored by the base."""
    update = forecast_update(config(*TINKER, "trainer=grpo"), SIZES, "expected")
    rolled, trained = update.rollouts, update.training
    assert (rolled.calls, rolled.input_tokens, rolled.output_tokens) == (5_120, 2_560_000, 5_120_000)
    assert (trained.calls, trained.input_tokens, trained.output_tokens) == (120, 8_640_000, 7_680_000)
    dollars = (2.56 + 8.64) * 0.18 + 5.12 * 0.44 + 7.68 * 0.52
    assert update_dollars(config(*TINKER, "trainer=grpo"), update) == pytest.approx(dollars)
    assert update_line(config(*TINKER, "trainer=grpo"), SIZES, "expected").endswith(
        "5,240 calls, 11,200,000 tokens read, 5,120,000 sampled, 7,680,000 trained: USD 8.26"
    )


def test_training_by_a_service_is_part_of_the_run_and_of_its_budget():
    plain, trained = config(*TINKER, "trainer=grpo", "max_gen=5"), config(*TINKER, "target_agent=policy", "max_gen=5")
    for name, updates in (("low", 1), ("expected", 2), ("high", 4)):
        case, without = forecast_run(plain, SIZES, name), forecast_run(trained, SIZES, name)
        update = forecast_update(plain, SIZES, name)
        assert case.learner.output_tokens == pytest.approx(update.training.output_tokens * updates, abs=5)
        more = total_dollars(plain, case) - total_dollars(trained, without)
        assert more == pytest.approx(updates * update_dollars(plain, update), rel=1e-4)
    limited = plain.model_copy(update={"budget": BudgetConfig(usd=10.0)})
    (line,) = budget_lines(limited, forecasts(limited))
    assert "high: ends in generation 1 of 5" in line


def test_a_service_whose_prices_are_not_known_is_not_called_free():
    unknown = config("task=lawbench", "policy=tinker", "target_agent.policy.base=some/other", "trainer=grpo")
    case = forecast_run(unknown, SIZES, "expected")
    assert total_dollars(unknown, case) is None
    assert update_line(unknown, SIZES, "expected").endswith("price unknown")


def test_the_notes_of_an_experiment_are_printed(command):
    code, out, _ = command("task=smoke", "meta_agent=llm", *PRICED, "notes=[differs from the paper: shorter]")
    assert code == 0 and "differs from the paper: shorter" in out
