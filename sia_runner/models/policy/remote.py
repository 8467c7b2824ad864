"""Requests of concurrent callers, each sent on to a server at once."""

import threading
from collections.abc import Callable
from concurrent.futures import Future

from sia_runner.models.failures import Failed
from sia_runner.models.policy.ask import Answer, Ask
from sia_runner.models.policy.vllm import Vllm


class Remote:
    """As Batching, of which the server does its own: a thread for each request under way, whose number the gateway
    bounds. Nobody waits for one that is given up."""

    def __init__(self, load: Callable[[], Vllm]) -> None:
        self._load, self._starting = load, threading.Lock()
        self._policy: Vllm | None = None

    def start(self) -> Vllm:
        """Raises PolicyError."""
        with self._starting:
            if self._policy is None:
                self._policy = self._load()
            return self._policy

    def submit(self, ask: Ask) -> Future[Answer]:
        """After `start`. Raises Failed in the future."""
        future: Future[Answer] = Future()
        future.set_running_or_notify_cancel()  # what is under way is not taken back
        threading.Thread(target=self._answer, args=[ask, future], name="vllm", daemon=True).start()
        return future

    def close(self) -> None:
        with self._starting:
            if self._policy is not None:
                self._policy.close()

    def _answer(self, ask: Ask, future: Future[Answer]) -> None:
        try:
            future.set_result(self.start().answer(ask))
        except Failed as failed:
            future.set_exception(failed)
        except Exception as error:  # noqa: BLE001 - an adapter that is gone, a full disk: no fault of who asked
            line = " ".join(str(error).split())[:300]
            why = f"the policy failed: {type(error).__name__}: {line}"
            future.set_exception(Failed("unreachable", why, sent=False, final=True))
