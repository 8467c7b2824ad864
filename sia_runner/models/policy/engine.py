"""The policy itself: one copy of the weights in this process, which answers and which is trained."""

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
    """Loads the base when it is made; `tiny` is built and warmed on `texts` first, unless `cache` has it already.
    Raises PolicyError. Every method may be called from any thread; one works at a time."""

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

        place = spec.base
        if spec.base == TINY:
            from sia_runner.models.policy.tiny import folder

            place = str(folder(spec.tiny, cache, texts(), say))
        base = load(place, spec.device, spec.dtype)
        self.spec = spec
        self.lock = threading.RLock()
        self.tokenizer = base.tokenizer
        self.base_id, self.base_sha256, self.context = spec.base, base.sha256, base.context
        self.folder = base.folder  # where the base lies on disk, in transformers' layout
        self._end_ids, self._chat = base.end_ids, Chat(base.tokenizer)
        self._adapters = Adapters(base.model, spec.base, base.sha256)
        self._prefixes = Prefixes()
        self._version, self._updates, self._asked = BASE, 0, 0

    @property
    def model(self) -> Any:
        """A transformers model; PEFT's once an adapter is on it. Training may set it to the one that it wrapped."""
        return self._adapters.model

    @model.setter
    def model(self, model: Any) -> None:
        self._adapters.model = model

    @property
    def device(self) -> Any:
        return self.model.device

    @property
    def version(self) -> str:
        """Of the live weights: an adapter's hash or "base", and how often they were trained since."""
        return f"{self._version}+{self._updates}" if self._updates else self._version

    def use(self, adapter: Path | None) -> str:
        """Make an adapter, or the base, the live weights. Returns the version. Raises PolicyError."""
        with self.lock:
            self._version = self._adapters.use(adapter)
            self._updates = 0
            return self._version

    def unload(self, adapter: Path) -> None:
        """Free what an adapter takes. Where it is live, the base is live after."""
        from sia_runner.models.policy.adapters import version_of

        with self.lock:
            if self._version == version_of(adapter):
                self.use(None)
            self._adapters.unload(adapter)

    @contextmanager
    def training(self) -> Iterator[Any]:
        """The model in train mode, while no request is answered; the live weights have a new version afterwards."""
        with self.lock:
            self.model.train()
            try:
                yield self.model
            finally:
                self.model.eval()
                self._updates += 1

    def prompt_ids(self, ask: Ask) -> list[int]:
        """Raises Failed (bad_request) where the context has no room for a single token more."""
        return self._chat.prompt_within(ask.messages, self.context)

    def generate(self, asks: Sequence[Ask]) -> list[Answer]:
        """In order. Raises Failed for the first ask that cannot be served, before anything is sampled; PolicyError for
        an adapter that cannot be loaded."""
        return self.sample(asks, [self.prompt_ids(ask) for ask in asks])

    def sample(self, asks: Sequence[Ask], prompts: Sequence[Sequence[int]]) -> list[Answer]:
        """`generate` with the token ids of each ask's prompt. Asks for the same weights are one batch."""
        with self.lock, _answering(self.model):
            answers: dict[int, Answer] = {}
            for weights in dict.fromkeys(ask.weights for ask in asks):
                of = [place for place, ask in enumerate(asks) if ask.weights == weights]
                drawn = self._at([asks[place] for place in of], [prompts[place] for place in of], weights)
                answers |= dict(zip(of, drawn, strict=True))
            return [answers[place] for place in range(len(asks))]

    def _at(self, asks: Sequence[Ask], prompts: Sequence[Sequence[int]], weights: Weights) -> list[Answer]:
        if isinstance(weights, Live):
            return self._draw(asks, prompts, self.version)
        with self._adapters.lent():
            return self._draw(asks, prompts, self._adapters.use(weights))

    def _draw(self, asks: Sequence[Ask], prompts: Sequence[Sequence[int]], version: str) -> list[Answer]:
        from sia_runner.models.policy.decode import Row, decode
        from sia_runner.models.policy.sampling import Draw

        rows = [
            Row(
                prompt_ids,
                min(ask.max_tokens, self.context - len(prompt_ids)),
                Draw(ask.temperature, ask.top_p, self._seed(ask)),
                self._chat.stopped(ask.stop),
            )
            for ask, prompt_ids in zip(asks, prompts, strict=True)
        ]
        drawn = decode(self.model, rows, self.tokenizer.pad_token_id, self._end_ids, self._prefixes, version)
        return [
            Answer(
                self._chat.text(one.ids, ask.stop),
                Sampled(tuple(row.prompt_ids), tuple(one.ids), tuple(one.logprobs), one.finish_reason, version),
            )
            for ask, row, one in zip(asks, rows, drawn, strict=True)
        ]

    def _seed(self, ask: Ask) -> str:
        if ask.seed is not None:
            return f"asked {ask.seed}"
        self._asked += 1
        return f"counted {self._asked}"


@contextmanager
def _answering(model: Any) -> Iterator[None]:
    """Eval mode: a trainer leaves its model in train mode between its steps, and dropout is not part of the policy."""
    if not any(module.training for module in model.modules()):  # changing nothing in each of them takes longer
        yield
        return
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
