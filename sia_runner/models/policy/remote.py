"""Requests of concurrent callers, each sent to a vLLM server at once."""

import threading
from collections.abc import Callable
from concurrent.futures import Future

from sia_runner.models.failures import Failed
from sia_runner.models.policy.ask import Answer, Ask
from sia_runner.models.policy.vllm import Vllm


class Remote:
    """Like the request batcher, but vLLM batches for us.

    Each request runs in a thread of its own; the gateway bounds their number. Nobody waits for a cancelled request.
    """

    def __init__(self, load: Callable[[], Vllm]) -> None:
        self._load, self._starting = load, threading.Lock()
        self._policy: Vllm | None = None

    def start(self) -> Vllm:
        """Return the policy, loaded on the first call. Raises PolicyError."""
        with self._starting:
            if self._policy is None:
                self._policy = self._load()
            return self._policy

    def submit(self, request: Ask) -> Future[Answer]:
        """Send a request; `start` comes first. The future raises Failed."""
        future: Future[Answer] = Future()
        future.set_running_or_notify_cancel()  # a request in progress cannot be cancelled
        threading.Thread(target=self._answer, args=[request, future], name="vllm", daemon=True).start()
        return future

    def close(self) -> None:
        """Close the policy if it was loaded."""
        with self._starting:
            if self._policy is not None:
                self._policy.close()

    def _answer(self, request: Ask, future: Future[Answer]) -> None:
        try:
            future.set_result(self.start().answer(request))
        except Failed as failed:
            future.set_exception(failed)
        except Exception as error:  # noqa: BLE001 - a missing adapter, a full disk: not the caller's fault
            line = " ".join(str(error).split())[:300]
            why = f"the policy failed: {type(error).__name__}: {line}"
            future.set_exception(Failed("unreachable", why, sent=False, final=True))
