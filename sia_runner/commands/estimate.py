"""The command `estimate` forecasts what a run may cost, before it spends."""

import json
import os
import sys
import tempfile
from argparse import Namespace
from collections.abc import Sequence
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any

from sia_runner.config.composition import composed_experiment
from sia_runner.config.experiment import Experiment
from sia_runner.config.training import allowed_algorithms
from sia_runner.experiment import costs
from sia_runner.experiment.context import Components
from sia_runner.experiment.costs import ASSUMPTIONS, Forecasts, TaskSizes, called_models, hosted_roles, role_name
from sia_runner.experiment.resources import fit_lines, training_of
from sia_runner.gateway.prices import price_of
from sia_runner.policy.fit import GB, SEQUENCES, GpuPlan, Memory, ModelShape, Training, model_shape, plan_gpus
from sia_runner.store.run_directory import RunDir
from sia_runner.sweep.table import right
from sia_runner.system import cache_dir
from sia_runner.wire.policy import PolicyError


def main(options: Namespace) -> int:
    """Compose the experiment, print its forecast, and return the exit code."""
    os.environ["PIP_NO_INDEX"] = "1"  # preparing a task fetches with pip: here only what is on this machine
    with composed_experiment(options.overrides) as (config, outcome):
        if config and options.fit:
            (_print_plans_json if options.json else _print_plans)(config)
            outcome.code = 0
        elif config:
            memory = _memory_lines(config)
            sizes = measure_task(config)
            speed = costs.policy_speed(RunDir(options.like)) if options.like else _measured_speed(config)
            sizes = replace(sizes, policy_speed=speed)
            cases = {name: costs.forecast_run(config, sizes, name) for name in ASSUMPTIONS}
            if options.json:
                _print_json(config, sizes, cases)
            else:
                _print(config, sizes, cases, memory)
            outcome.code = 0
    return outcome.code


def measure_task(config: Experiment) -> TaskSizes:
    """Return the question counts of the task, and the size of a question in one view. Raises TaskError."""
    task = Components(config).task
    task.prepare(lambda text: print(text, file=sys.stderr))
    select = task.rounds("select")
    with tempfile.TemporaryDirectory() as folder:
        view = task.lay_out(select[0], Path(folder) / "view", "estimate").path
        files = list(view.glob("questions.*")) or [path for path in view.rglob("*") if path.is_file()]
        size = sum(path.stat().st_size for path in files) // max(1, len(select[0].questions))
    return costs.task_sizes(task, size)


def _measured_speed(config: Experiment) -> float | None:
    """Measure the speed of a policy that is on this machine and small; None for others."""
    from sia_runner.policy.wheel_base import WHEEL_BASES, cached_base

    spec = config.target_agent.policy
    in_process = config.has_policy and spec.backend == "peft" and spec.base in WHEEL_BASES
    if not in_process or not cached_base(spec.base, cache_dir()).is_dir():
        return None
    from sia_runner.policy.engine import PolicyEngine, sampling_speed

    return sampling_speed(PolicyEngine(spec, cache_dir(), list))


def _memory_lines(config: Experiment) -> list[str]:
    """Return what the policy's memory is, where a stage loads it. Raises FitError where it cannot fit."""
    try:
        return [f"memory: {line}" for line in fit_lines(config, fetch=False)]
    except PolicyError as unknown:
        return [f"memory: not known: {unknown}"]


_GPU_COUNTS, _GPU_SIZES = (1, 2, 4, 8, 16), (24, 48, 80, 141)
_FIT_ASSUMPTIONS = (
    "assumed: GB are 1e9 bytes; an update in which every row is as long as trainer.max_length; activations are "
    "computed twice, layer by layer; the base is sharded over the GPUs that train, which gather two layers at once, "
    "embeddings and head; each of them holds the whole adapter, in float32, with gradients, Adam's moments and a copy "
    "for the exchange",
    f"assumed of servers: vLLM with 90% of each GPU, weights as they are stored, two adapters, 3 GB beside them, and "
    f"room for {SEQUENCES} rows of that length at once; the fewest GPUs that hold the training train, the others serve",
    "GB for each process that trains; one GPU trains and answers by turns; no: does not fit (docs/large_models.md)",
)


def _gpu_plans(config: Experiment) -> tuple[ModelShape, Training, dict[tuple[int, int], GpuPlan | None]]:
    """Return plans by the memory and the number of GPUs. Raises PolicyError where the base's sizes are not known."""
    spec, algorithms = config.target_agent.policy, list(allowed_algorithms(config.trainer).values())
    shape, training = model_shape(spec.base, fetch=False), training_of(spec, algorithms[0] if algorithms else None)
    cases = [(size, count) for size in _GPU_SIZES for count in _GPU_COUNTS]
    return shape, training, {case: plan_gpus(shape, training, case[1], case[0] * GB) for case in cases}


def _print_plans(config: Experiment) -> None:
    from rich import box
    from rich.console import Console
    from rich.table import Table

    shape, training, plans = _gpu_plans(config)
    adapter = f"an adapter of {shape.adapter_parameters(training.lora) / 1e6:.4g}e6 (rank {training.lora.rank})"
    parameters = f"{shape.parameters / 1e9:.4g}e9 parameters in {training.dtype}"
    title = f"{config.target_agent.policy.base} · {parameters}, {adapter}, rows of {training.max_length:,} tokens"
    names = [field.name for field in fields(Memory)]
    columns = right("GPUs", "train", "serve", *names, "all", "longest row")
    table = Table(*columns, title=title, title_justify="left", box=box.SIMPLE)
    for (size, count), plan in plans.items():
        if plan is None:
            table.add_row(f"{count} x {size}", "no")
            continue
        serve = f"{plan.servers} x {plan.each}" if plan.servers else "same"
        parts = [f"{value / GB:.1f}" for value in (*asdict(plan.memory).values(), plan.memory.total)]
        table.add_row(f"{count} x {size}", str(plan.train), serve, *parts, f"{plan.longest:,}")
    console = Console(highlight=False, width=140)
    console.print(table)
    for line in _FIT_ASSUMPTIONS:
        console.print(line, soft_wrap=True)


def _print_plans_json(config: Experiment) -> None:
    shape, training, plans = _gpu_plans(config)
    rows = [
        {"gb": size, "gpus": count, "fits": plan is not None, **(asdict(plan) if plan else {})}
        for (size, count), plan in plans.items()
    ]
    adapter = {"rank": training.lora.rank, "parameters": shape.adapter_parameters(training.lora)}
    base = {"name": config.target_agent.policy.base, "parameters": shape.parameters, "file_bytes": shape.file_bytes}
    report = {"base": base, "adapter": adapter, "dtype": training.dtype, "max_length": training.max_length}
    print(json.dumps(report | {"plans": rows, "assumptions": _FIT_ASSUMPTIONS}, indent=1))


def _print(config: Experiment, sizes: TaskSizes, cases: Forecasts, memory: Sequence[str]) -> None:
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    console = Console(highlight=False, soft_wrap=True)
    if not hosted_roles(config) and not config.has_policy:
        choices = f"task={config.task.name} meta_agent={config.meta_agent.name}"
        console.print(f"{choices}: no model is called, nothing is spent")
        return
    table = Table("", *right(*cases), title=f"{config.task.name} · what a run may cost", title_justify="left")
    for title, cells in _rows(config, cases).items():
        table.add_row(title, *cells)
    console.print(table)
    for line in [
        *config.notes,
        *_assumptions(config, sizes),
        *memory,
        *costs.limit_lines(config, sizes),
        *costs.budget_lines(config, cases),
    ]:
        console.print(escape(line))


def _rows(config: Experiment, cases: Forecasts) -> dict[str, list[str]]:
    forecasts, rows = cases.values(), dict[str, list[str]]()
    rows["generations"] = [str(case.generations) for case in forecasts]
    parts = ("propose", "trial", "gate", "select", "rollout", "train")
    for name in (name for name in parts if all(name in case.parts for case in forecasts)):
        rows[f"calls · {name}"] = [f"{case.parts[name].calls * case.generations:,}" for case in forecasts]
    rows["calls · test"] = [f"{case.test.calls:,}" for case in forecasts]
    for key in ("calls", "input_tokens", "output_tokens"):
        rows[key.replace("_", " ")] = [f"{getattr(case.total, key):,}" for case in forecasts]
    for role, hosted in hosted_roles(config).items():
        dollars = [costs.role_dollars(config, case, role) for case in forecasts]
        rows[f"USD · {role_name(role)} ({hosted.model})"] = [_format_usd(each) for each in dollars]
    if config.has_policy and config.target_agent.policy.backend == "tinker":
        for role in ("target", "learner"):
            dollars = [costs.role_dollars(config, case, role) for case in forecasts]
            rows[f"USD · {role_name(role)} ({config.target_agent.policy.base})"] = [
                _format_usd(each) for each in dollars
            ]
    rows["USD"] = [_format_usd(costs.total_dollars(config, case)) for case in forecasts]
    whom = "models" if all(case.timed for case in forecasts) else "providers"
    rows[f"waiting for {whom}"] = [_format_time(case.total.seconds) for case in forecasts]
    return rows


def _format_usd(value: float | None) -> str:
    return "unknown" if value is None else f"{value:,.2f}" if value >= 1 or value == 0 else f"{value:.4f}"


def _format_time(seconds: float) -> str:
    if seconds < 7200:
        return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"


def _assumptions(config: Experiment, sizes: TaskSizes) -> list[str]:
    def three(key: str) -> str:
        return " / ".join(f"{getattr(case, key):g}" for case in ASSUMPTIONS.values())

    lines = [
        f"measured: {sizes.gate} gate, {sizes.trial} dev, {sizes.select} dev + val, {sizes.test} test questions; "
        f"{sizes.question_bytes} bytes a question, 4 bytes a token",
        f"assumed of a harness (low / expected / high): {three('calls')} calls a question, {three('prompt')} tokens "
        f"around it, {three('answer')} tokens an answer, {three('at_once')} calls at once, ended by task.limits",
        f"assumed of a proposer: {three('turns')} of its turns, {three('context')} of its context, {three('trials')} "
        f"of its trials, {three('written')} tokens an answer",
        f"assumed of providers: {three('wait')} s, then {three('speed')} tokens a second; {three('again')} repeats a "
        "call; no discount for cached input",
    ]
    for role, hosted in called_models(config):
        rates = price_of(hosted)
        who = f"{role_name(role)}: {hosted.model} of provider {hosted.name}"
        unknown = "prices are not known; give provider.prices.input and .output in USD per million tokens"
        lines.append(f"{who}: {costs.price_text(rates) if rates else unknown}")
    if config.has_policy:
        policy, speed = config.target_agent.policy, sizes.policy_speed
        pace = f"{speed:.0f} tokens a second" if speed else "its speed is not known (--like RUN_DIR)"
        lines.append(
            f"harness: calls the policy {policy.base} ({policy.backend}): {costs.policy_price(config)}; {pace}"
        )
    if costs.trains_at_service(config):
        lines += [costs.update_line(config, sizes, name) for name in ASSUMPTIONS]
        lines.append("updates in the table: one, every second generation, every generation but the first")
    elif rollouts := [costs.planned_rollouts(each)[1] for each in allowed_algorithms(config.trainer).values()]:
        lines.append(f"each update of the weights adds up to {max(rollouts):,} rollouts, which are not in the table")
    return lines


def _print_json(config: Experiment, sizes: TaskSizes, cases: Forecasts) -> None:
    roles = {
        role: {"provider": hosted.name, "model": hosted.model, "priced": price_of(hosted) is not None}
        for role, hosted in hosted_roles(config).items()
    }
    if config.has_policy:
        policy = config.target_agent.policy
        roles["target"] = {"provider": "policy", "model": policy.base, "priced": costs.policy_is_priced(config)}
    report: dict[str, Any] = {"task": config.task.name, "roles": roles, "sizes": asdict(sizes), "cases": {}}
    for name, case in cases.items():
        total = asdict(case.total) | {"usd": costs.total_dollars(config, case), "generations": case.generations}
        seconds = case.total.seconds if case.timed else None
        report["cases"][name] = total | {"seconds": seconds, "assumptions": asdict(ASSUMPTIONS[name])}
    print(json.dumps(report | {"budget": costs.budget_lines(config, cases)}, indent=1, ensure_ascii=False))
