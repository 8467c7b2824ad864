"""Defines the model's tools: the docstring is what the model reads, the fields are the arguments."""

import json
import re
from abc import ABC, abstractmethod
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from sia_runner.proposers.llm_workspace import (
    ProposalWorkspace,
    Submission,
    ToolRefused,
    clip_text,
    digest_of_files,
    find_matches,
    split_path,
    syntax_fault,
    writable_name,
)
from sia_runner.proposers.prompting import plus_minus
from sia_runner.records import Json, Trial
from sia_runner.text import one_line, strip_control_characters

_MAX_FAULTS = 5


class Tool(BaseModel, ABC):
    """A call of a tool with valid arguments; unknown arguments are refused."""

    model_config = ConfigDict(extra="forbid")
    name: ClassVar[str]

    @abstractmethod
    def _run(self, workspace: ProposalWorkspace) -> str:
        """Carry out the call and return the answer. Raises ToolRefused."""

    @classmethod
    def declaration(cls) -> Json:
        """Return the tool in the shape of OpenAI's `tools`."""
        parameters = _untitled(cls.model_json_schema())
        description = " ".join(parameters.pop("description").split())
        return {
            "type": "function",
            "function": {"name": cls.name, "description": description, "parameters": parameters},
        }

    @classmethod
    def call(cls, workspace: ProposalWorkspace, arguments: str) -> str:
        """Carry out a call with JSON arguments. Raises ToolRefused with all that is wrong with them."""
        try:
            parsed = cls.model_validate_json(arguments.strip() or "{}")
        except ValidationError as error:
            # the input, which may be huge, is not repeated
            errors = error.errors(include_url=False, include_input=False, include_context=False)[:_MAX_FAULTS]
            faults = [f"{'.'.join(str(part)[:60] for part in e['loc']) or 'arguments'}: {e['msg']}" for e in errors]
            raise ToolRefused(f"{cls.name}: {'; '.join(faults)[:600]}") from None
        return clip_text(parsed._run(workspace), workspace.answer_bytes)


def _untitled(schema: Any) -> Any:
    """Remove the titles that pydantic makes of names; a *property* called title stays."""
    if not isinstance(schema, dict):
        return schema
    return {key: _untitled(value) for key, value in schema.items() if not (key == "title" and isinstance(value, str))}


_MAX_LISTED = 400


class ListFiles(Tool):
    """List the files of evidence/ and harness/ with their sizes."""

    name = "list_files"
    folder: str = Field("", description="evidence, harness, or a folder in one of them; empty: both")

    def _run(self, workspace: ProposalWorkspace) -> str:
        files = workspace.under(self.folder)
        lines = [f"{path}  {len(text.encode(errors='replace'))} bytes" for path, text in files.items()]
        more = [f"… and {len(lines) - _MAX_LISTED} more; name a folder"] if len(lines) > _MAX_LISTED else []
        return "\n".join(lines[:_MAX_LISTED] + more)


class ReadFile(Tool):
    """Read a text file. What is too long is cut, and the first line of the answer says where to read on."""

    name = "read_file"
    path: str = Field(description="evidence/... or harness/...")
    offset: int = Field(1, ge=1, description="first line, counted from 1")
    limit: int = Field(1000, ge=1, description="most lines")

    def _run(self, workspace: ProposalWorkspace) -> str:
        root, name = split_path(self.path)
        lines = workspace.text(root, name).split("\n")
        if lines[-1] == "":
            lines.pop()  # a final newline starts no line
        if self.offset > max(1, len(lines)):
            raise ToolRefused(f"{root}/{name} has {len(lines)} lines")
        selected, remaining = [], workspace.answer_bytes - 200  # for the headline
        for line in lines[self.offset - 1 : self.offset - 1 + self.limit]:
            cut = clip_text(line, workspace.answer_bytes // 2)
            remaining -= len(cut.encode(errors="replace")) + 1
            if remaining < 0:
                break
            selected.append(cut)
        last = self.offset - 1 + len(selected)
        more = f"; read on with offset={last + 1}" if last < len(lines) else ""
        return "\n".join([f"[{root}/{name}: lines {self.offset} to {last} of {len(lines)}{more}]", *selected])


class OpenCandidate(Tool):
    """Copy the harness of an earlier generation, and the dev questions that it failed, to
    evidence/candidates/gen_N, where you can list, read and search them. history/gen_N.md says what became of it.
    """  # noqa: D205

    name = "open_candidate"
    generation: int = Field(description="number of the generation")

    def _run(self, workspace: ProposalWorkspace) -> str:
        if self.generation not in workspace.candidates:
            numbers = ", ".join(map(str, workspace.candidates))
            raise ToolRefused(f"there is no earlier generation {self.generation}; there are: {numbers}")
        candidate = workspace.workbench.earlier_candidate(self.generation)
        folder = f"candidates/gen_{self.generation}"
        lines = [json.dumps(failure, ensure_ascii=False, default=str) for failure in candidate.failures]
        files = {f"{folder}/harness/{name}": text for name, text in candidate.files.items()}
        files[f"{folder}/failures.jsonl"] = "".join(f"{line}\n" for line in lines)
        workspace.evidence = {**workspace.evidence, **files}
        names = ", ".join(f"evidence/{name}" for name in list(files)[:_MAX_LISTED])
        return f"{len(lines)} dev failures, {len(candidate.files)} files of the harness: {names}"


_MAX_MATCHES = 100  # lines
_BEFORE, _AFTER = 60, 180  # characters shown around a match


class Search(Tool):
    """Find the lines of files that hold a text."""

    name = "search"
    pattern: str = Field(min_length=1, max_length=1000, description="plain text, or a regular expression")
    regex: bool = Field(False, description="pattern is a regular expression of Python's re, matched line by line")
    ignore_case: bool = False
    folder: str = Field("", description="evidence, harness, a folder or a file in one of them; empty: both")

    def _run(self, workspace: ProposalWorkspace) -> str:
        files = workspace.under(self.folder)
        pattern = self.pattern if self.regex else re.escape(self.pattern)
        matches = find_matches(files, pattern, ignore_case=self.ignore_case, limit=_MAX_MATCHES)
        if not matches:
            return "no match"
        lines = {name: files[name].split("\n") for name, _, _ in matches}
        excerpts = [f"{name}:{line}: {_excerpt(lines[name][line - 1], column)}" for name, line, column in matches]
        more = [f"… only the first {_MAX_MATCHES} matches are shown"] if len(matches) == _MAX_MATCHES else []
        return "\n".join(excerpts + more)


def _excerpt(line: str, column: int) -> str:
    begin, end = max(0, column - _BEFORE), column + _AFTER
    return f"{'…' if begin else ''}{line[begin:end]}{'…' if end < len(line) else ''}"


def _write(workspace: ProposalWorkspace, name: str, text: str) -> str:
    """Write a file and return its lines and its syntax error, which is cheapest to mend now."""
    workspace.draft.write(name, text)
    fault = syntax_fault({name: text})
    return f"harness/{name} has {len(text.splitlines())} lines now" + (f". It does not parse: {fault}" if fault else "")


class WriteFile(Tool):
    """Write a file of the harness whole; it is replaced if it is there."""

    name = "write_file"
    path: str = Field(description="harness/...")
    content: str = Field(description="the whole new text of the file")

    def _run(self, workspace: ProposalWorkspace) -> str:
        return _write(workspace, writable_name(self.path), self.content)


class EditFile(Tool):
    """Replace a text that occurs exactly once in a file of the harness."""

    name = "edit_file"
    path: str = Field(description="harness/...")
    old: str = Field(
        min_length=1, description="text that occurs exactly once in the file, spaces and newlines included"
    )
    new: str = Field(description="what stands there afterwards")

    def _run(self, workspace: ProposalWorkspace) -> str:
        name = writable_name(self.path)
        text = workspace.text("harness", name)
        first = text.find(self.old)
        # overlapping occurrences count too: it is unclear which of them is meant
        if first < 0 or text.find(self.old, first + 1) >= 0:
            problem = "does not occur" if first < 0 else "occurs more than once"
            raise ToolRefused(f"edit_file: `old` {problem} in harness/{name}; nothing was changed")
        return _write(workspace, name, text.replace(self.old, self.new))


class DeleteFile(Tool):
    """Delete a file of the harness."""

    name = "delete_file"
    path: str = Field(description="harness/...")

    def _run(self, workspace: ProposalWorkspace) -> str:
        name = writable_name(self.path)
        workspace.text("harness", name)  # refuses a file that is not there
        workspace.draft.delete(name)
        return f"harness/{name} is deleted"


_EXAMPLE_BYTES = 1500  # bytes of one failure
_MAX_EXAMPLES = 6


class TryHarness(Tool):
    """Run the draft as it is now on a few dev questions and see its value, its failures with the right answers, and
    what it printed. The number of trials is limited.
    """  # noqa: D205

    name = "try_harness"

    def _run(self, workspace: ProposalWorkspace) -> str:
        files = workspace.draft.files
        digest = digest_of_files(files)
        if digest in workspace.tried:
            earlier = _describe_trial(workspace, workspace.tried[digest])
            return f"These very files were tried before; not run again.\n{earlier}"
        if not workspace.trials:
            raise ToolRefused("no trials are left; submit the draft, or put back what was tried")
        if fault := workspace.draft.fault():
            raise ToolRefused(f"not tried, and no trial used: {fault}")
        (trial,) = workspace.workbench.try_out([files], share=1.0, questions=workspace.questions)
        workspace.trials -= 1
        workspace.tried[digest] = trial
        return _describe_trial(workspace, trial)


def _describe_trial(workspace: ProposalWorkspace, trial: Trial) -> str:
    """Return a trial as text: figures, then failures, then the program's output."""
    parts = [f"failed: {trial.failure}"] if trial.failure else []
    if trial.n:
        value = f"value {plus_minus(trial.value, trial.n)} (standard error) on {trial.n} dev questions"
        start = workspace.start_value
        parts.append(value + ("" if start is None else f"; the harness you started from had {start:.3f} on them"))
    kinds = ", ".join(f"{count} {kind}" for kind, count in trial.outcomes.items())
    parts.append(f"{trial.seconds:.1f} s; outcomes: {kinds or 'none'}")
    if trial.examples:
        texts = [json.dumps(dict(e), ensure_ascii=False, default=str) for e in trial.examples[:_MAX_EXAMPLES]]
        lines = ["questions that were not fully right, with the right answer:"]
        lines += [clip_text(text, _EXAMPLE_BYTES) for text in texts]
        parts.append(clip_text("\n".join(lines), workspace.answer_bytes // 2))
    output = clip_text(trial.output, workspace.answer_bytes // 4)
    if output.strip():
        parts.append(f"the end of what it printed:\n{output}")
    return "\n".join(parts)


class MeasureRewards(Tool):
    """Roll the draft out on a few questions kept for training, four times each, and see the statistics of the rewards
    (n rollouts in groups of one question each; shares are of rollouts, calls, tokens and seconds are per rollout),
    the algorithm that the rules would take, and how long training would last. A changed draft uses one trial.
    """  # noqa: D205

    name = "measure_rewards"

    def _run(self, workspace: ProposalWorkspace) -> str:
        draft = workspace.draft
        digest = digest_of_files(draft.files)
        if digest not in workspace.measured:
            if draft.changed and not workspace.trials:
                raise ToolRefused("no trials are left; only the harness you started from can be measured without one")
            if fault := draft.fault():
                raise ToolRefused(f"not measured, and no trial used: {fault}")
            workspace.trials -= draft.changed
            workspace.measured[digest] = workspace.workbench.measure(draft.files)
        rewards = workspace.measured[digest]
        lines = [", ".join(f"{name} {value:.3g}" for name, value in rewards.shape.items())]
        lines.append(f"by the rules: {rewards.why}")
        lines += [f"- {name}: not possible now: {reason}" for name, reason in rewards.refused.items()]
        for name, minutes in rewards.minutes.items():
            if name not in rewards.refused:
                lines.append(f"- {name}: " + ("time not known" if minutes is None else f"about {minutes:.3g} minutes"))
        return "\n".join(lines)


_TITLE_CHARACTERS = 100
_TEXT_BYTES = 4000


class Submit(Tool):
    """Propose the draft in harness/ as this generation's candidate. This ends your work."""

    name = "submit"
    title: str = Field(min_length=1, description="the change in one short line")
    rationale: str = Field(min_length=1, description="what fails now, why, and how the change mends the cause")
    expected_effect: str = Field(
        min_length=1, description="which questions should change, by how much, and what could get worse"
    )

    def _run(self, workspace: ProposalWorkspace) -> str:
        draft = workspace.draft
        if not workspace.first and not draft.changed:
            instead = "change something, train_weights, or stop" if workspace.weights else "change something, or stop"
            raise ToolRefused(f"the draft is the parent's harness unchanged, which can only tie; {instead}")
        if fate := workspace.earlier.get(digest_of_files(draft.files)):
            raise ToolRefused(f"these very files were proposed before: {fate}; val is not there to be asked twice")
        if fault := draft.fault():
            raise ToolRefused(f"not accepted: {fault}")
        return self._accept(workspace, None)

    def _accept(self, workspace: ProposalWorkspace, algorithm: str | None) -> str:
        workspace.decision = Submission(
            one_line(self.title, _TITLE_CHARACTERS) or "untitled",
            clip_text(strip_control_characters(self.rationale), _TEXT_BYTES),
            clip_text(strip_control_characters(self.expected_effect), _TEXT_BYTES),
            algorithm,
        )
        return "accepted"


class TrainWeights(Submit):
    """Propose to train the model's weights on rollouts of the draft in harness/, which may be unchanged.

    This ends your work, in place of submit.
    """

    name = "train_weights"
    algorithm: str = Field("", description="what to train with; empty: what the rules take for the measured rewards")

    def _run(self, workspace: ProposalWorkspace) -> str:
        algorithms = workspace.weights.algorithms if workspace.weights else {}
        if self.algorithm and self.algorithm not in algorithms:
            raise ToolRefused(f"there is no algorithm of that name; there are: {', '.join(algorithms)}")
        if fault := workspace.draft.fault():
            raise ToolRefused(f"not accepted: {fault}")
        rewards = workspace.workbench.measure(workspace.draft.files)
        algorithm = self.algorithm or rewards.suggested
        if not algorithm:
            raise ToolRefused(f"the rules take no algorithm: {rewards.why}")
        if reason := rewards.refused.get(algorithm):
            raise ToolRefused(f"{algorithm} is not possible now: {reason}")
        return self._accept(workspace, algorithm)


class Stop(Tool):
    """End the whole experiment's search, because nothing is left that could gain anything. Rarely right."""

    name = "stop"
    reason: str = Field(min_length=1, description="what was tried, and why nothing more can be gained")

    def _run(self, workspace: ProposalWorkspace) -> str:
        workspace.decision = clip_text(strip_control_characters(self.reason), _TEXT_BYTES)
        return "stopped"


ENDING_TOOLS = (Submit.name, TrainWeights.name)  # tools that end a proposal when they are accepted


def available_tools(*, first: bool, trials: int, weights: bool, earlier: bool) -> dict[str, type[Tool]]:
    """Return the available tools by name; the first harness has no `stop`, since nothing was tried."""
    tools: list[type[Tool]] = [ListFiles, ReadFile, Search, WriteFile, EditFile, DeleteFile]
    tools += [OpenCandidate] if earlier else []
    tools += [TryHarness] if trials else []
    tools += [MeasureRewards, TrainWeights] if weights else []
    tools += [Submit] if first else [Submit, Stop]
    return {tool.name: tool for tool in tools}
