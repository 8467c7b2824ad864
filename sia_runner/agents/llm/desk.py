"""The workspace of one proposal: all that the model's tools can read and change."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sia_runner.agents.llm.draft import Draft, Refused, digest
from sia_runner.agents.llm.paths import Place, shown, split
from sia_runner.agents.protocol import Rewards, Weights, Workbench
from sia_runner.records import Trial


@dataclass(frozen=True, slots=True)
class Tried:
    """A harness that was tried, with its trial."""

    digest: str  # of the harness
    trial: Trial


@dataclass(frozen=True, slots=True)
class Submitted:
    """A submission that was accepted."""

    title: str
    rationale: str
    expected_effect: str
    algorithm: str | None = None  # to train the weights with; None: the harness alone is proposed


@dataclass(frozen=True, slots=True)
class Stopped:
    """The model's decision that nothing is left to try."""

    reason: str


@dataclass(slots=True)
class Desk:
    """The state that the tools of one proposal work on."""

    evidence: Mapping[str, str]  # read-only: name -> text
    draft: Draft
    workbench: Workbench
    trials: int  # runs on dev questions that are left
    questions: int  # of one such run
    answer_bytes: int  # bytes of one tool's answer
    first: bool  # generation 1: the harness as it is may be proposed
    earlier: Mapping[str, str] = field(default_factory=dict)  # digest of a proposed harness -> what became of it
    start_value: float | None = None  # of the harness it starts from, in an earlier trial on the same questions
    weights: Weights | None = None  # None: they are not to be trained
    tried: list[Tried] = field(default_factory=list)
    measured: dict[str, Rewards] = field(default_factory=dict)  # by digest of the harness
    decision: Submitted | Stopped | None = None

    def files_in(self, root: Place) -> Mapping[str, str]:
        """Return the files under `root`."""
        return self.evidence if root == "evidence" else self.draft.files

    def text(self, root: Place, name: str) -> str:
        """Return the text of a file. Raises Refused where there is none."""
        files = self.files_in(root)
        if name in files:
            return files[name]
        inside = [other for other in files if other.startswith(f"{name}/")] if name else list(files)
        if inside:
            raise Refused(f"{root}/{name} is a folder; list_files shows what is in it")
        raise Refused(f"there is no file {root}/{name[:120]}; list_files shows what there is")

    def under(self, folder: str) -> dict[str, str]:
        """Return full path -> text of all files in a folder, or of one file; an empty `folder` means both roots.

        Raises Refused where there is nothing.
        """
        all_roots: list[tuple[Place, str]] = [("evidence", ""), ("harness", "")]
        roots = [split(folder)] if folder.strip("./") else all_roots
        texts = {
            f"{root}/{name}": text
            for root, inside in roots
            for name, text in sorted(self.files_in(root).items())
            if not inside or name == inside or name.startswith(f"{inside}/")
        }
        if not texts:
            raise Refused(f"there is nothing in {shown(folder)}")
        return texts

    def earlier_trial(self) -> Tried | None:
        """Return the earlier trial of exactly this draft, or None."""
        mark = digest(self.draft.files)
        return next((tried for tried in self.tried if tried.digest == mark), None)

    def clip(self, text: str) -> str:
        """Cut a tool's answer to the allowed bytes."""
        return clip(text, self.answer_bytes)


def clip(text: str, limit: int) -> str:
    """Return head and tail of a text, at most `limit` bytes of UTF-8, with a mark where something is missing."""
    raw = text.encode(errors="replace")
    if len(raw) <= limit:
        return raw.decode()
    mark = f"\n[… {len(raw) - limit} bytes left out …]\n"
    keep = max(0, limit - len(mark.encode()))
    head = keep * 2 // 3
    tail = raw[len(raw) - (keep - head) :].decode(errors="ignore") if keep > head else ""
    return raw[:head].decode(errors="ignore") + mark + tail


def plain(text: str) -> str:
    """Replace control characters by spaces: the text is shown in terminals."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else " " for letter in text)
