"""The replay proposer: proposes the harnesses of a folder in order, another run's or hand-written ones."""

from pathlib import Path

from sia_runner.proposers.files import read_harness_files
from sia_runner.proposers.protocol import Brief, ProposerContext, ProposerError, Workbench
from sia_runner.records import Lever, Proposal

_EXPORTED = ("README.md", "provenance.json", "example/")  # what `export` adds to a harness


class Replay:
    """A proposer that takes DIR/gen_<n>/harness/ or, where there is no such folder, the files of DIR/gen_<n>/.

    A folder without gen_1 that holds a program (one file, or what `export` wrote) is the only harness.
    """

    def __init__(self, context: ProposerContext, *, dir: str) -> None:
        self._entry, self._dir = context.entry, Path(dir).expanduser().absolute()
        self._single = not (self._dir / "gen_1").is_dir()
        if self._single and self._entry not in self._files(self._dir):
            raise ProposerError(
                f"meta_agent.dir={dir} holds no folder gen_1, nor a program; expected: gen_1, gen_2, ..."
            )

    def propose(self, brief: Brief, workbench: Workbench) -> Proposal:
        """Propose the harness of generation n, or stop when the folder has no more."""
        folder = self._dir if self._single and brief.n == 1 else self._dir / f"gen_{brief.n}"
        if not folder.is_dir():
            return Proposal(Lever.STOP, f"no more harnesses in {self._dir}")
        recorded_harness = folder / "harness"
        source = recorded_harness if recorded_harness.is_dir() else folder
        return Proposal(
            Lever.HARNESS,
            f"replayed from {source}",
            files=self._files(source),
            title=f"replay of gen_{brief.n}",
        )

    def _files(self, source: Path) -> dict[str, str]:
        files = read_harness_files(source, self._entry)
        if "provenance.json" in files:  # an exported harness has a page and an example beside the program
            files = {name: text for name, text in files.items() if not name.startswith(_EXPORTED)}
        return files
