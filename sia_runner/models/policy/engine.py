"""The policy in this process: one copy of the weights, which answers and is trained."""

import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sia_runner.models.policy.ask import Answer, Ask, Dialogue, Live, Weights, check_installed
from sia_runner.records import Sampled
from sia_runner.schema.training import PolicySpec

TINY = "tiny"


def _say(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


class Engine:
    """One loaded base model and its adapters.

    Creating it loads the base; `tiny` is built and warmed on `texts` first, unless `cache` has it. Raises PolicyError.
    Every method may be called from any thread; one runs at a time.
    """

    def __init__(
        self,
        spec: PolicySpec,
        cache: Path,
        texts: Callable[[], Sequence[Dialogue]],
        say: Callable[[str], None] = _say,
    ) -> None:
        check_installed()
        from sia_runner.models.policy.adapters import BASE, Adapters
        from sia_runner.models.policy.chat import Chat
        from sia_runner.models.policy.checkpoint import load
        from sia_runner.models.policy.prefixes import Prefixes

        base_path = spec.base
        if spec.base == TINY:
            from sia_runner.models.policy.tiny import folder

            base_path = str(folder(spec.tiny, cache, texts(), say))
        base = load(base_path, spec.device, spec.dtype)
        self.spec = spec
        self.lock = threading.RLock()
        self.tokenizer = base.tokenizer
        self.base_id, self.base_sha256, self.context = spec.base, base.sha256, base.context
        self.folder = base.folder  # the base on disk, in transformers' layout
        self._end_ids, self._chat = base.end_ids, Chat(base.tokenizer)
        self._adapters = Adapters(base.model, spec.base, base.sha256)
        self._prefixes = Prefixes()
        self._version, self._updates, self._unseeded = BASE, 0, 0

    @property
    def model(self) -> Any:
        """The transformers model; PEFT's once it has an adapter. Training may set it to the model that it wrapped."""
        return self._adapters.model

    @model.setter
    def model(self, model: Any) -> None:
        """Replace the model."""
        self._adapters.model = model

    @property
    def device(self) -> Any:
        """The torch device of the weights."""
        return self.model.device

    @property
    def version(self) -> str:
        """The version of the live weights: an adapter's hash or "base", and the number of trainings since."""
        return f"{self._version}+{self._updates}" if self._updates else self._version

    def use(self, adapter: Path | None) -> str:
        """Make an adapter, or the base, the live weights. Returns the version. Raises PolicyError."""
        with self.lock:
            self._version = self._adapters.use(adapter)
            self._updates = 0
            return self._version

    def unload(self, adapter: Path) -> None:
        """Free an adapter's memory; if it was live, the base becomes live."""
        from sia_runner.models.policy.adapters import version_of

        with self.lock:
            if self._version == version_of(adapter):
                self.use(None)
            self._adapters.unload(adapter)

    @contextmanager
    def training(self) -> Iterator[Any]:
        """Yield the model in train mode.

        No request is answered meanwhile; afterwards the live weights have a new version.
        """
        with self.lock:
            self.model.train()
            try:
                yield self.model
            finally:
                self.model.eval()
                self._updates += 1

    def prompt_ids(self, request: Ask) -> list[int]:
        """Return the prompt's token ids. Raises Failed (bad_request) if the context has no space for an answer."""
        return self._chat.prompt_within(request.messages, self.context)

    def generate(self, requests: Sequence[Ask]) -> list[Answer]:
        """Answer requests, in order.

        Raises Failed for the first request that cannot be served, before anything is sampled; PolicyError for an
        adapter that cannot be loaded.
        """
        return self.sample(requests, [self.prompt_ids(request) for request in requests])

    def sample(self, requests: Sequence[Ask], prompts: Sequence[Sequence[int]]) -> list[Answer]:
        """Answer requests whose prompts are tokenised already; requests for the same weights form a batch."""
        with self.lock, _answering(self.model):
            answers: dict[int, Answer] = {}
            for weights in dict.fromkeys(request.weights for request in requests):
                indices = [index for index, request in enumerate(requests) if request.weights == weights]
                batch = self._at([requests[index] for index in indices], [prompts[index] for index in indices], weights)
                answers |= dict(zip(indices, batch, strict=True))
            return [answers[index] for index in range(len(requests))]

    def _at(self, requests: Sequence[Ask], prompts: Sequence[Sequence[int]], weights: Weights) -> list[Answer]:
        if isinstance(weights, Live):
            return self._draw(requests, prompts, self.version)
        with self._adapters.restored_afterwards():
            return self._draw(requests, prompts, self._adapters.use(weights))

    def _draw(self, requests: Sequence[Ask], prompts: Sequence[Sequence[int]], version: str) -> list[Answer]:
        from sia_runner.models.policy.decode import Row, decode
        from sia_runner.models.policy.sampling import Draw

        rows = [
            Row(
                prompt_ids,
                min(request.max_tokens, self.context - len(prompt_ids)),
                Draw(request.temperature, request.top_p, self._seed(request)),
                self._chat.stopped(request.stop),
            )
            for request, prompt_ids in zip(requests, prompts, strict=True)
        ]
        results = decode(self.model, rows, self.tokenizer.pad_token_id, self._end_ids, self._prefixes, version)
        return [
            Answer(
                self._chat.text(result.ids, request.stop),
                Sampled(
                    tuple(row.prompt_ids), tuple(result.ids), tuple(result.logprobs), result.finish_reason, version
                ),
            )
            for request, row, result in zip(requests, rows, results, strict=True)
        ]

    def _seed(self, request: Ask) -> str:
        if request.seed is not None:
            return f"asked {request.seed}"
        self._unseeded += 1
        return f"counted {self._unseeded}"


@contextmanager
def _answering(model: Any) -> Iterator[None]:
    """Switch to eval mode, and back at the end.

    A trainer leaves its model in train mode between its steps, and dropout is not part of the policy.
    """
    if not any(module.training for module in model.modules()):  # this check is faster than setting every module again
        yield
        return
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
