"""Adapters at a vLLM server: those of other generations, and the one under training."""

import tempfile
from pathlib import Path

from sia_runner.models.failures import Failed
from sia_runner.models.policy.ask import PolicyError
from sia_runner.models.policy.engine import Engine
from sia_runner.models.policy.vllm_api import Server

Model = tuple[str, str]  # name at the server, and version of the weights


class Written:
    """One version of the adapter under training, served as `model`.

    Its folder exists as long as it is the newest version: a server short of memory drops adapters, and reads them
    again.
    """

    def __init__(self, parent: Path, training: Engine, server: Server, model: Model) -> None:
        from sia_runner.models.policy.live import write

        parent.mkdir(parents=True, exist_ok=True)
        self.model = model
        self._folder = tempfile.TemporaryDirectory(dir=parent, prefix="live-")
        Path(self._folder.name).chmod(0o755)  # the server may run as another user
        adapter = Path(self._folder.name) / "adapter"
        write(training.model, adapter, training.base_id, training.base_sha256)
        load(server, model[0], adapter)


def load(server: Server, name: str, folder: Path) -> None:
    """Load the adapter in `folder` on the server. Raises Failed, and PolicyError if the server refuses it."""
    try:
        server.load(name, folder.resolve())
    except Failed as failed:
        if failed.status is None:  # no answer at all says nothing about the adapter
            raise
        raise PolicyError(f"{server.address} does not take the adapter {folder}: {failed.message}") from None
