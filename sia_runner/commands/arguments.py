"""The command line of every command: what --help says, the options, and what is refused.

A command is a function here, whose docstring is its help page, and a module of the same name with `main(options)`.
Nothing heavy is imported, so that a help page appears at once.
"""

import argparse
import re
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from sia_runner.errors import RunnerError
from sia_runner.text import one_line

PROGRAM = "python -m sia_runner"


class UsageError(RunnerError):
    """Arguments that a command does not take."""


class CommandParser(argparse.ArgumentParser):
    """A parser that refuses in one line, and that takes options written as ``key=value`` where a command has such."""

    def __init__(self, **settings: Any) -> None:
        formatter: Any = partial(argparse.RawDescriptionHelpFormatter, max_help_position=30, width=120)
        super().__init__(**settings, formatter_class=formatter, allow_abbrev=False)
        self.epilog = "Exit codes: 0 done · 2 refused."
        self.keys: list[str] = []  # the options that are written key=value

    def add_key(self, name: str, metavar: str, text: str, **settings: Any) -> None:
        """Add an option that is written ``name=value``."""
        self.keys.append(name)
        self.add_argument(f"--{name}", metavar=metavar, help=text, **settings)

    def add_overrides(self, *, required: bool = False) -> None:
        """Add the arguments of a command that composes an experiment as a run does."""
        text = "a choice of a group, or a key of the experiment, as for a run"
        self.add_argument("overrides", nargs="+" if required else "*", default=[], metavar="KEY=VALUE", help=text)
        text = "a folder that adds choices to those of conf/"
        self.add_argument("--config-dir", "-cd", action="append", default=[], metavar="DIR", help=text)

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Parse all arguments. Raises UsageError if some are left over."""
        options, left = super().parse_known_args([self._as_option(arg) for arg in args], namespace)
        many = next((action for action in self._actions if action.nargs in ("*", "+")), None)
        for arg in left:  # argparse gives such an argument only what stands before the first option
            if arg.startswith("-"):
                raise UsageError(f"{arg}: no such option{_nearest(arg, self._option_names())}")
            if many is None:
                self.error(f"{arg}: one argument too many")
            value = many.type(arg) if callable(many.type) else arg
            setattr(options, many.dest, [*getattr(options, many.dest), value])
        if many is not None and hasattr(options, "config_dir"):
            options.overrides = [*options.overrides, *(f"--config-dir={folder}" for folder in options.config_dir)]
        return options, []

    def _as_option(self, arg: str) -> str:
        """Return ``--key=value`` for ``key=value``. A folder may have an equals sign in its name."""
        key, sign, _ = arg.partition("=")
        if sign and key in self.keys:
            return f"--{arg}"
        if self.keys and sign and key.isidentifier() and not Path(arg).exists():
            raise UsageError(f"{arg}: no such option{_nearest(key, self._option_names())}")
        return arg

    def _option_names(self) -> list[str]:
        options = [action for action in self._actions if action.option_strings and action.dest != "help"]
        return [f"{each.dest}=" if each.dest in self.keys else each.option_strings[0] for each in options]

    def _as_written(self, text: str) -> str:
        for key in self.keys:
            text = text.replace(f"  --{key} ", f"    {key}=").replace(f"--{key} ", f"{key}=")
        return text

    def format_usage(self) -> str:
        """Return the usage lines."""
        return self._as_written(super().format_usage())

    def format_help(self) -> str:
        """Return the help page."""
        return self._as_written(super().format_help())

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            name = f"{action.dest}={value}: no such choice" if action.option_strings else f"{value}: no such command"
            raise UsageError(f"{name}{_nearest(value, action.choices)}")

    def error(self, message: str) -> NoReturn:
        """Refuse the arguments. Raises UsageError."""
        message = message.replace("the following arguments are required", "missing").removeprefix("argument ")
        raise UsageError(f"{message}; usage: {' '.join(self.format_usage().split()[1:])}")


def _nearest(name: str, choices: Any) -> str:
    from sia_runner.config.refusals import nearest_choice

    return nearest_choice(name, choices)


def _folder(text: str) -> Path:
    if not text:
        raise argparse.ArgumentTypeError("name a folder")
    return Path(text).expanduser().resolve()


def _port(text: str) -> int:
    if not text.isdecimal() or int(text) > 65535:
        raise argparse.ArgumentTypeError(f"{text}: allowed: 0 (any) to 65535")
    return int(text)


def _host_names(text: str) -> tuple[str, ...]:
    names = tuple(text.lower().split(","))
    if wrong := [name for name in names if not re.fullmatch(r"[a-z0-9]([a-z0-9.-]*[a-z0-9])?", name)]:
        allowed = "names as in hub.example.org, with commas between them, without https://, port and path"
        raise argparse.ArgumentTypeError(f"{one_line(wrong[0]) or 'empty'}: allowed: {allowed}")
    return names


def _url_path(text: str) -> str:
    if not re.fullmatch(r"(/[\w.~@%+-]+)*/?", text):
        raise argparse.ArgumentTypeError(f"{one_line(text)}: allowed: a path as in /node/HOST/8050")
    return text.rstrip("/")


def _wandb_name(text: str) -> str:
    from sia_runner.config.components import check_wandb_name

    try:
        return check_wandb_name(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def _hub_id(text: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", text):
        raise argparse.ArgumentTypeError(f"{one_line(text) or 'empty'}: allowed: OWNER/NAME, as on the Hub")
    return text


def _reason(text: str) -> str:
    if not text.strip():
        raise argparse.ArgumentTypeError("say why")
    return text


def _add_run(parser: CommandParser) -> None:
    parser.add_argument("run", type=_folder, metavar="RUN_DIR")


def run(_: CommandParser) -> None:
    """Compose, check and carry out an experiment: the default, its arguments are enough."""


def resume(parser: CommandParser) -> None:
    """Go on with a run or a sweep that was cut.

    Finished steps are read from the journal, jobs on a cluster are found again, and only what is missing is done.
    Of the configuration max_gen, budget.* and compute.* may change; of a sweep also hydra/launcher, hydra.launcher.*.
    task.dir=… names the task's folder if it was moved; its data has to be that of the run.
    """
    parser.add_argument("run", type=_folder, metavar="DIR", help="a run directory, or that of a whole sweep")
    text = "max_gen=N, budget.*=…, compute.*=…"
    parser.add_argument("overrides", nargs="*", default=[], metavar="KEY=VALUE", help=text)
    parser.epilog = "Exit codes: those of a run."


def sweep(parser: CommandParser) -> None:
    """Show the table of a sweep, finished or not; start nothing.

    A row for each run: how it ended, val and test of its best generation with their intervals, cost, seconds; then the
    mean over seeds for each task, mode and arm. The same, as it was when its command ended, is in sweep.json and
    sweep.csv.
    """
    parser.add_argument("sweep", type=_folder, metavar="SWEEP_DIR")
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def report(parser: CommandParser) -> None:
    """Compare SIA-H with SIA-W+H: one HTML page, Markdown, LaTeX, CSV.

    Finished, failed and cut runs are all shown. The page needs no other file; beside it the same is written as NAME.md
    and NAME.tex (a table for a paper) and as NAME.runs.csv, NAME.generations.csv, NAME.pairs.csv.
    """
    parser.add_argument("folders", nargs="*", type=_folder, metavar="RUN", help="a run, a folder of runs or a sweep")
    parser.add_key("sweep", "DIR", "a sweep, or another RUN", type=_folder, action="append", default=[])
    text = "the page; default: report.html, in the folder of runs if one is named"
    parser.add_key("out", "FILE.html", text, type=_folder)
    parser.add_key("columns", "FUNCTION,...", "module.function of your own, called with a ReportedRun: more columns")
    parser.add_key("wandb", "ENTITY/PROJECT", "also save a W&B Report (extra `tracking`)")


def compare(parser: CommandParser) -> None:
    """Show runs side by side on the same test questions.

    Each run is compared with the first of its own seed (with the first of all where no seed is shared), question by
    question: the difference, its standard error, the questions lost and won, and McNemar's exact p, two-sided.
    """
    text = "a run directory, or a folder of them as a sweep leaves it"
    parser.add_argument("folders", nargs="+", type=_folder, metavar="RUN", help=text)
    parser.add_argument("--json", action="store_true", help="print it as JSON")


def web(parser: CommandParser) -> None:
    """Serve the live dashboard of a folder of runs.

    It shows runs while they are written, and itself writes nothing. On a cluster, from your own machine:
    ssh -L 8050:127.0.0.1:8050 LOGIN_NODE
    """
    parser.add_key("runs_dir", "DIR", "a folder of runs, of sweeps, or one run; default: runs", default="runs")
    parser.add_key("port", "PORT", "default: 8050; 0: any that is free", type=_port, default=8050)
    text = "an address of this machine; with any other than loopback every request needs the token that is printed"
    parser.add_key("host", "HOST", text, default="127.0.0.1")
    text = "auto, or true: on loopback too, which other users of a shared machine can reach"
    parser.add_key("token", "WHEN", text, choices=("auto", "true"), default="auto")
    text = "a name under which a proxy in front passes requests on, or several with commas; asks for the token too"
    parser.add_key("allow_host", "NAME", text, type=_host_names, default=())
    text = "the path below which a proxy serves it, if the proxy leaves that path in the requests"
    parser.add_key("root_path", "PATH", text, type=_url_path, default="")
    text = "interrupted, or stdin: also end when standard input does, for a program that starts it"
    parser.add_key("until", "WHEN", text, choices=("interrupted", "stdin"), default="interrupted")
    parser.epilog = "Exit codes: 0 standard input ended · 2 refused · 130 interrupted."


def verify(parser: CommandParser) -> None:
    """Recompute every score of a run and find any edit.

    Of the run directory it trusts the submissions alone: ids are derived again, answers come from the prepared data,
    scores and verdicts are computed again and compared with the journal, whose hash chain must hold.
    """
    _add_run(parser)
    text = "where the task's folder lies now, if it was moved since the run"
    parser.add_argument("--task-dir", type=_folder, metavar="DIR", help=text)
    parser.epilog = "Exit codes: 0 every score holds · 1 faults · 2 refused."


def export(parser: CommandParser) -> None:
    """Write the best harness of a run as a folder that runs without us, or its trajectories for other tools.

    With --inspect or --atif every harness run that was verified is written instead, select and test: its questions,
    model calls, outcomes and scores. Val and test questions are among them: show the folder to no proposer.
    """
    _add_run(parser)
    text = "must not exist; default: RUN_DIR's name-best, -inspect or -atif"
    parser.add_argument("out", nargs="?", type=Path, metavar="DIR", help=text)
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument("--inspect", action="store_true", help="logs of Inspect AI (extra `inspect`)")
    kinds.add_argument(
        "--atif", action="store_true", help="ATIF, the trajectory format of Harbor: a file a conversation"
    )


def doctor(parser: CommandParser) -> None:
    """Check whether an experiment would run, here and now.

    One line per check: ok, FAULT with what to do, or skipped.
    """
    parser.add_overrides()
    parser.add_argument("--call", action="store_true", help="make one tiny call per model, which is paid for")
    parser.epilog = "Exit codes: 0 all is well · 1 faults · 2 the configuration is refused."


def estimate(parser: CommandParser) -> None:
    """Forecast what an experiment may cost, before it spends.

    Calls, tokens, dollars and time under three sets of assumptions, which are printed; sizes are those of the task's
    own questions. Nothing is called, no network is used: a task whose data is not in the cache must be prepared first.
    """
    parser.add_overrides()
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    text = "take the speed of a policy on this machine from an earlier run of it"
    parser.add_argument("--like", type=_folder, metavar="RUN_DIR", help=text)
    text = "instead: on how many GPUs of which memory the base can be trained and served, and what each of them holds"
    parser.add_argument("--fit", action="store_true", help=text)


def tasks(parser: CommandParser) -> None:
    """List, make and check tasks."""
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="the tasks there are")
    listing.add_argument("--config-dir", "-cd", action="append", default=[], metavar="DIR", help="with tasks of yours")
    new = commands.add_parser("new", help="a task of your own, also from a CSV file")
    new.add_argument("name", metavar="NAME", help="small letters, digits and _")
    text = "where its folder is made; default: here"
    new.add_argument("--dir", type=Path, default=Path(), metavar="PARENT", help=text)
    new.add_argument("--csv", type=Path, metavar="FILE", help="questions with answers; also .xlsx")
    new.add_argument("--answer", metavar="COLUMN", help="the column of the answers")
    new.add_argument("--id", metavar="COLUMN", help="the column of the ids; without it rows are numbered")
    new.add_argument("--licence", default="not stated", metavar="TEXT", help="the licence of the data")
    check = commands.add_parser("check", help="whether a task holds: can one score without doing the work?")
    check.add_argument("name", metavar="NAME|FOLDER")
    check.add_overrides()
    check.epilog = "Exit codes: 0 nothing was found · 1 findings, each with what to mend · 2 refused."


def adapters(parser: CommandParser) -> None:
    """List, show, check, merge, export and publish trained adapters.

    ADAPTER is a folder, as gen_2/adapter. Without --base it is loaded onto the base that it names; any other base than
    its own is refused. A service tells no hash of its weights: with --trust-base you vouch that BASE is what it trained
    the adapter on. `adapters RUN_DIR` is `adapters list RUN_DIR`. `publish` takes its token from HF_TOKEN; a new
    repository is private without --public.
    """
    commands = parser.add_subparsers(dest="command", required=True)
    for name, (text, words) in _ADAPTER_COMMANDS.items():
        command = commands.add_parser(name, help=text)
        for word in words:
            if word == "BASE":
                command.add_argument("--base", metavar=word, help="a folder or a hub id")
                vouch = "take an adapter that a service trained; the base is the one that it had"
                command.add_argument("--trust-base", action="store_true", help=vouch)
            else:
                folder = Path if word == "OUT" else _folder
                command.add_argument(word.removesuffix("_DIR").lower(), type=folder, metavar=word)
    publish = commands.add_parser(
        "publish", help="send the best one of a run with a model card to the Hugging Face Hub"
    )
    _add_run(publish)
    publish.add_argument("repo", type=_hub_id, metavar="OWNER/NAME")
    text = "write the folder that would be sent, and send nothing"
    publish.add_argument("--dry-run", type=Path, metavar="DIR", help=text)
    publish.add_argument(
        "--base", type=_hub_id, metavar="OWNER/NAME", help="the hub's id of a base that was a folder here"
    )
    publish.add_argument("--licence", metavar="ID", help="the adapter's licence, as the Hub names it: apache-2.0")
    publish.add_argument("--public", action="store_true", help="let all see a new repository")


_ADAPTER_COMMANDS: dict[str, tuple[str, Sequence[str]]] = {
    "list": ("those of a run: generation, status, steps, reward, KL, base, hashes", ("RUN_DIR",)),
    "show": ("where one comes from", ("ADAPTER",)),
    "check": ("load one onto its base, or onto BASE", ("ADAPTER", "BASE")),
    "merge": ("write base and adapter as one plain transformers folder", ("ADAPTER", "OUT", "BASE")),
    "export": ("write the best one of a run as a PEFT folder, with its origin", ("RUN_DIR", "OUT")),
}


def approve(parser: CommandParser) -> None:
    """Answer the plan that a run waits with, and go on with the run.

    A run started with approve=weights or approve=all stops before that lever is pulled (exit code 130) and leaves its
    plan in gen_<n>/plan.md: what, why, with which data, at what cost. Approved, the plan is carried out; rejected, the
    generation ends with the reason, which the next proposal sees. Either way the run goes on in this process. Refused:
    no plan waits, or the plan was changed since it was written.
    """
    _add_run(parser)
    parser.add_argument("--reject", type=_reason, metavar='"WHY"', help="reject the plan")
    parser.epilog = "Exit codes: those of a run."


def direct(parser: CommandParser) -> None:
    """Leave a note for the next proposal of a run.

    The run may go on in another process or stand still: the note waits in RUN_DIR/directions until the run is about to
    propose, is journaled then, and every later proposal is told it too. It is one line of at most 1,000 characters.
    A run with a note is no fair arm of a comparison; report, compare, tables and W&B say so. Refused: proposers that
    read no notes (recipes, replay).
    """
    _add_run(parser)
    parser.add_argument("note", type=_reason, metavar='"NOTE"', help='as in "look at the date formats"')


def transfer(parser: CommandParser) -> None:
    """Test the final harness of a run with another model, or on another task.

    Give what is to differ: a provider, a policy, keys of the target agent, or a task whose tables have the same layout.
    The best candidate and the first one are tested once on the test split, so that one sees whether the gain carries
    over; an adapter comes along where the base is the one it was trained on. The figures are kept in
    RUN_DIR/transfers, the report shows them outside of all arms, and a second call shows them again.
    """
    _add_run(parser)
    parser.add_overrides(required=True)


def prepare(parser: CommandParser) -> None:
    """Fetch or make the data of a task.

    Use it where compute nodes have no network: run it once where there is one; the data lands in the cache.
    """
    parser.add_overrides(required=True)


def prefetch(parser: CommandParser) -> None:
    """Fetch all that an experiment would download, for nodes without a network.

    Give it the overrides of the run, on a machine that has a network and shares the file system and the Python
    environment with the nodes. It prints one line per thing: fetched, there, MISSING with what to do, or network:
    needed during the run, which nothing fetched beforehand can replace.
    """
    parser.add_overrides()
    parser.epilog = "Exit codes: 0 all is there · 1 something is missing · 2 the configuration is refused."


def sync(parser: CommandParser) -> None:
    """Send to Weights & Biases what it does not have of these runs.

    What W&B has is asked of W&B, and what is missing is read from the run directory: of runs that were tracked offline,
    whose connection broke, or that were not tracked at all. Safe to be done again, and beside a run that is going on.
    """
    parser.add_argument("folders", nargs="+", type=_folder, metavar="RUN_DIR", help="a run, a sweep, a folder of runs")
    parser.add_key("project", "NAME", "the project there", type=_wandb_name)
    parser.add_key("entity", "NAME", "the user or team there", type=_wandb_name)
    parser.epilog = "Exit codes: 0 W&B has everything · 1 it does not · 2 refused."


def convert(parser: CommandParser) -> None:
    """Convert sia-agent's profiles and providers to choices of ours.

    A provider becomes DIR/provider/<id>.yaml; a profile DIR/experiment/<id>.yaml with a provider of its own, which is
    used with --config-dir DIR +experiment=<id>.

    provider   {provider_id, name, client_kind: anthropic|openai|google, base_url, api_key_env, litellm_prefix?}
    profile    {profile_id, name, model, provider_id, agent_impl}            of its meta-agent
               {profile_id, name, model, provider_id, agent_reference}       of its target agent
    """
    parser.add_argument("files", nargs="+", type=Path, metavar="FILE.json", help="or a folder: all JSON files in it")
    parser.add_argument("--out", type=Path, default=Path("sia_agent"), metavar="DIR", help="default: sia_agent")


COMMANDS: dict[str, Callable[[CommandParser], None]] = {
    declare.__name__: declare
    for declare in (
        *(run, resume, sweep, report, compare, web, verify, export, doctor, estimate, tasks, adapters, approve),
        *(direct, transfer, prepare, prefetch, sync, convert),
    )
}


def summary(name: str) -> str:
    """Return what a command does, in a line."""
    return (COMMANDS[name].__doc__ or "").partition("\n")[0].rstrip(".")


def command_parser(name: str) -> CommandParser:
    """Return the parser of a command."""
    text = "\n".join(line.removeprefix("    ") for line in (COMMANDS[name].__doc__ or "").splitlines()).rstrip()
    parser = CommandParser(prog=f"{PROGRAM} {name}", description=text)
    COMMANDS[name](parser)
    return parser


def parse_command(args: Sequence[str]) -> tuple[str, Any]:
    """Return the command and its options; of `run` its arguments, which are Hydra's.

    Raises UsageError, and SystemExit after the page of --help.
    """
    name, *rest = args or ["run"]
    if name not in COMMANDS:
        if name and "=" not in name and name[0] not in "-+~":
            if hint := as_override(name, rest):
                raise UsageError(f"{name}: no such command; to set the key, write {hint}")
            raise UsageError(f"{name}: no such command{_nearest(name, COMMANDS)}")
        name, rest = "run", list(args)
    if name == "run":
        if {"-h", "--help"} & set(rest):
            print(run_page(rest))
            raise SystemExit(0)
        resumed = [arg for arg in rest if arg.startswith("resume=")]
        if not resumed:
            return name, rest
        name, rest = "resume", [resumed[0].removeprefix("resume="), *(arg for arg in rest if arg not in resumed)]
    if name == "adapters" and rest and rest[0] not in (*_ADAPTER_COMMANDS, "publish") and not rest[0].startswith("-"):
        rest = ["list", *rest]
    options = command_parser(name).parse_args(rest)
    options.arguments = rest
    return name, options


def as_override(word: str, rest: Sequence[str]) -> str:
    """Return ``task=smoke`` for the words `task smoke` or `task=smoke`; empty if the first is no key of a run."""
    from sia_runner.system import bundled_folder

    key, _, value = word.partition("=")
    value = value or next((arg for arg in rest[:1] if "=" not in arg and not arg.startswith("-")), "…")
    conf = bundled_folder("conf")
    is_key = (conf / key).is_dir() or f"\n{key}:" in (conf / "config.yaml").read_text(encoding="utf-8")
    return f"{key}={value}" if key.isidentifier() and is_key else ""


def run_page(args: Sequence[str]) -> str:
    """Return the help page of a run: the commands, the groups, and the choices of each with its purpose."""
    from sia_runner.config.help import group_choices, split_config_dirs

    lines = [_HEAD, *(f"  {name:<9} {summary(name)}" for name in COMMANDS), _GROUPS]
    for group, descriptions in sorted(group_choices(split_config_dirs(args)[0]).items()):
        lines.append(f"  {group}")
        lines += [f"    {choice:<20} {description}" for choice, description in descriptions.items()]
    return "\n".join([*lines, _TAIL])


_HEAD = f"""\
SIA Runner: self-improving-AI experiments as configurations.

usage: {PROGRAM} [group=choice ...] [key=value ...] [-m] [--cfg job] [--config-dir DIR]
       {PROGRAM} COMMAND ... | COMMAND --help

  {PROGRAM}                        the smoke task: a whole experiment in seconds
  {PROGRAM} task=lawbench          SIA-H on LawBench; no key, no GPU
  {PROGRAM} task=gpqa meta_agent=llm provider=anthropic      language models; a key in the environment
  {PROGRAM} -m task=smoke seed=0,1,2      a sweep: one run per seed
  {PROGRAM} +sweeps=levers hydra/launcher=submitit_slurm      a declared sweep (sweeps/*.yaml) as SLURM jobs

Commands:
"""
_GROUPS = "\nGroups and choices (the first comment line of each file in conf/<group>/):\n"
_TAIL = """
--cfg job prints the composed configuration with every key; --hydra-help lists Hydra's own options.
Exit codes: 0 scored and tested · 2 refused, nothing started · 3 no candidate could be scored ·
4 budget spent before a tested result · 130 interrupted, resumable.
"""
