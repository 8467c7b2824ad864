"""The replay proposer: proposes the harnesses of a folder in order, another run's or hand-written ones."""

from pathlib import Path

from sia_runner.proposers.files import read_harness_files
from sia_runner.proposers.protocol import Brief, ProposerContext, ProposerError, Workbench
from sia_runner.records import Lever, Proposal


class Replay:
    """A proposer that takes DIR/gen_<n>/harness/ or, where there is no such folder, the files of DIR/gen_<n>/."""

    def __init__(self, context: ProposerContext, *, dir: str) -> None:
        self._entry, self._dir = context.entry, Path(dir).expanduser().absolute()
        if not (self._dir / "gen_1").is_dir():
            raise ProposerError(f"meta_agent.dir={dir} holds no folder gen_1; expected: gen_1, gen_2, ...")

    def propose(self, brief: Brief, workbench: Workbench) -> Proposal:
        """Propose the harness of generation n, or stop when the folder has no more."""
        folder = self._dir / f"gen_{brief.n}"
        if not folder.is_dir():
            return Proposal(Lever.STOP, f"no more harnesses in {self._dir}")
        recorded_harness = folder / "harness"
        source = recorded_harness if recorded_harness.is_dir() else folder
        return Proposal(
            Lever.HARNESS,
            f"replayed from {source}",
            files=read_harness_files(source, self._entry),
            title=f"replay of gen_{brief.n}",
        )
