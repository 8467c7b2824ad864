"""All that the tools of one proposal work on. Nothing else of the machine can be reached through them."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from sia_runner.agents.llm.draft import Draft, Refused, digest
from sia_runner.agents.llm.paths import Place, shown, split
from sia_runner.agents.protocol import Rewards, Weights, Workbench
from sia_runner.records import Trial


@dataclass(frozen=True, slots=True)
class Tried:
    digest: str  # of the harness
    trial: Trial


@dataclass(frozen=True, slots=True)
class Submitted:
    title: str
    rationale: str
    expected_effect: str
    algorithm: str | None = None  # to train the weights with; None: the harness alone is proposed


@dataclass(frozen=True, slots=True)
class Stopped:
    reason: str


@dataclass(slots=True)
class Desk:
    evidence: Mapping[str, str]  # read-only: name -> text
    draft: Draft
    workbench: Workbench
    trials: int  # runs on dev questions that are left
    questions: int  # of one such run
    room: int  # bytes of one tool's answer
    first: bool  # generation 1: the harness as it is may be proposed
    earlier: Mapping[str, str] = field(default_factory=dict)  # digest of a proposed harness -> what became of it
    start_value: float | None = None  # of the harness it starts from, in an earlier trial on the same questions
    weights: Weights | None = None  # None: they are not to be trained
    tried: list[Tried] = field(default_factory=list)
    measured: dict[str, Rewards] = field(default_factory=dict)  # by digest of the harness
    decision: Submitted | Stopped | None = None

    def place(self, place: Place) -> Mapping[str, str]:
        return self.evidence if place == "evidence" else self.draft.files

    def text(self, place: Place, name: str) -> str:
        """Raises Refused."""
        files = self.place(place)
        if name in files:
            return files[name]
        inside = [other for other in files if other.startswith(f"{name}/")] if name else list(files)
        if inside:
            raise Refused(f"{place}/{name} is a folder; list_files shows what is in it")
        raise Refused(f"there is no file {place}/{name[:120]}; list_files shows what there is")

    def under(self, folder: str) -> dict[str, str]:
        """Full path -> text of all files in a folder, or of one file; of both places where none is named.

        Raises Refused where there is nothing.
        """
        both: list[tuple[Place, str]] = [("evidence", ""), ("harness", "")]
        wanted = [split(folder)] if folder.strip("./") else both
        found = {
            f"{place}/{name}": text
            for place, inside in wanted
            for name, text in sorted(self.place(place).items())
            if not inside or name == inside or name.startswith(f"{inside}/")
        }
        if not found:
            raise Refused(f"there is nothing in {shown(folder)}")
        return found

    def known(self) -> Tried | None:
        """The earlier trial of exactly this draft."""
        mark = digest(self.draft.files)
        return next((tried for tried in self.tried if tried.digest == mark), None)

    def clip(self, text: str) -> str:
        return clip(text, self.room)


def clip(text: str, most: int) -> str:
    """Head and tail of a text, at most `most` bytes of UTF-8, with a mark where something is missing."""
    raw = text.encode(errors="replace")
    if len(raw) <= most:
        return raw.decode()
    mark = f"\n[… {len(raw) - most} bytes left out …]\n"
    keep = max(0, most - len(mark.encode()))
    head = keep * 2 // 3
    tail = raw[len(raw) - (keep - head) :].decode(errors="ignore") if keep > head else ""
    return raw[:head].decode(errors="ignore") + mark + tail


def plain(text: str) -> str:
    """Without control characters: this is shown in terminals."""
    return "".join(letter if letter.isprintable() or letter in "\n\t" else " " for letter in text)
