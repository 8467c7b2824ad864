"""A real host for guests: a sandbox that reaches the gateway, and by it to the local provider server."""

import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest

from sia_runner.config.components import HostedProvider as Provider
from sia_runner.config.experiment import BudgetConfig
from sia_runner.experiment.workbench import ServiceQueue
from sia_runner.gateway.service import GatewayService
from sia_runner.proposers.protocol import EarlierCandidate, Files, GuestResult, Services
from sia_runner.records import Trial
from sia_runner.sandbox.bubblewrap import Bubblewrap
from sia_runner.sandbox.protocol import Ending, SandboxError, SandboxJob, SandboxLimits, SandboxResult
from sia_runner.wire.grants import Grant
from tests.provider import ProviderServer

KEY = "a-key-that-only-the-gateway-has"


@dataclass
class Host:
    """A workbench that only hosts. `ended`: how its last program did."""

    models: GatewayService
    home: Path
    ended: SandboxResult | None = None
    tried: list[Files] = field(default_factory=list)

    def host(
        self,
        program: Files,
        entry: str,
        *,
        inputs: Path,
        harness: Files,
        calls: int,
        seconds: float,
        services: Services | None = None,
    ) -> GuestResult:
        place = Path(tempfile.mkdtemp(dir=self.home))
        place.chmod(0o755)  # the sandbox runs as another user
        _write(place / "program", program)
        _write(place / "work" / "harness", harness)
        grant = Grant("meta", 1, "gen_1", "propose", self.home / "trajectories.jsonl", calls=calls)
        log = place / "stdout.log"
        queue = ServiceQueue(services or {})
        with self.models.open_session(grant, service=queue.submit) as session, queue:
            limits = SandboxLimits(seconds=seconds)
            job = SandboxJob(place / "program", entry, inputs, place / "work", log, limits, gateway=session.address)
            self.ended = ended = Bubblewrap().run(job)
            usage = session.usage()
        ok = ended.ending is Ending.EXITED and ended.exit_code == 0
        failure = "" if ok else f"{ended.ending}: {ended.detail}"
        return GuestResult(_texts(place / "work" / "harness"), failure, log.read_text(errors="replace")[-4000:], usage)

    def chat(self, *_: Any, **__: Any) -> Any:
        raise AssertionError("a guest's calls go through the gateway")

    def try_out(self, batch: Sequence[Files], *, share: float, questions: int | None = None) -> list[Trial]:
        self.tried += [dict(files) for files in batch]
        return [Trial(0.25, questions or 0, 1.0, examples=({"question": "tried-question", "gold": "tried-gold"},))]

    def earlier_candidate(self, n: int) -> EarlierCandidate:
        return EarlierCandidate(
            {"target_agent.py": f"print('candidate-{n}')\n"}, [{"question": "q", "gold": "g-of-dev"}]
        )


@contextmanager
def hosting(server: ProviderServer, api: Literal["openai", "anthropic"]) -> Iterator[Host]:
    """Skips, aloud, where bubblewrap does not work."""
    try:
        Bubblewrap().check(with_gateway=True)
    except SandboxError as error:
        pytest.skip(f"NOT TESTED: guests in bubblewrap: {error}")
    home = Path(tempfile.mkdtemp(prefix="sia-guests-"))  # pytest's own folders are private to this user
    home.chmod(0o755)
    provider = Provider(
        name="custom",
        kind="hosted",
        api=api,
        litellm=api,
        model="scripted",
        base_url=server.base_url,
        key="SIA_TEST_KEY",
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("SIA_TEST_KEY", KEY)
        models = GatewayService({"meta": provider}, home / "ledger", BudgetConfig(), home / "cache")
        try:
            yield Host(models, home)
        finally:
            models.close()
            shutil.rmtree(home)


def _write(folder: Path, files: Files) -> None:
    for name, text in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8", newline="")


def _texts(folder: Path) -> dict[str, str]:
    files = (path for path in sorted(folder.rglob("*")) if path.is_file() and not path.is_symlink())
    return {path.relative_to(folder).as_posix(): path.read_bytes().decode(errors="replace") for path in files}
