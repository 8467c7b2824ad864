"""A learner in the plainest torch: every logit of the vocabulary, one log_softmax, rows padded on the right.

It is the oracle of other learners, and what the loops of training are tested with.
"""

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn.utils.rnn import pad_sequence

from sia_runner.config.training import LoraSettings
from sia_runner.training.batch import derive_seed
from sia_runner.training.losses import pad_rows
from sia_runner.wire.adapter_files import adapter_state, load_peft_adapter, write_adapter
from sia_runner.wire.learning import ForwardPass, LearnerAbilities, LowerLoss, StepSettings, TrainingRow

NAME = "default"


class ToyLearner:
    """One copy of a PEFT model; `rows_per_pass` cuts a step, `holding` keeps requests out of backward and step."""

    abilities = LearnerAbilities(critic=True, entropy=True, temperature=True, processes=False)

    def __init__(
        self,
        model: Any,
        folder: Path,
        *,
        seed: int = 0,
        temperature: float = 1.0,
        critic: bool = False,
        rows_per_pass: int = 10_000,
        holding: Any = nullcontext,
    ) -> None:
        self.model, self._folder, self._seed, self._temperature = model, folder, seed, temperature
        self._rows_per_pass, self._holding, self._held = rows_per_pass, holding, ExitStack()
        self._holds = False
        self.head = torch.nn.Linear(model.config.hidden_size, 1) if critic else None
        self.parameters = [weight for weight in model.parameters() if weight.requires_grad]
        self._critic = [] if self.head is None else list(self.head.parameters())
        for weight in self._critic:
            torch.nn.init.zeros_(weight)
        self._optimizer = torch.optim.AdamW(self.parameters + self._critic, weight_decay=0.0)
        self.steps = self.published = 0

    def forward(self, rows: Sequence[TrainingRow], *, base: bool = False) -> ForwardPass:
        without: AbstractContextManager[Any] = self.model.disable_adapter() if base else nullcontext()
        with torch.no_grad(), without:
            self.model.eval()
            logprob_bt, entropy, value_bt = self._scored(rows)
        return _as_pass(rows, range(len(rows)), logprob_bt, entropy, value_bt)

    def backward(
        self, rows: Sequence[TrainingRow], lower: LowerLoss, *, together: Sequence[Sequence[int]] = ()
    ) -> list[ForwardPass]:
        if not self._holds:
            self._held.enter_context(self._holding())
            self._holds = True
        self.model.train()
        torch.manual_seed(derive_seed(self._seed, self.steps, 0))  # dropout's
        single = set(range(len(rows))).difference(*together)
        groups, passes = [*map(list, together), *([row] for row in sorted(single))], []
        while groups:
            numbers = groups.pop(0)
            while groups and len(numbers) + len(groups[0]) <= self._rows_per_pass:
                numbers = numbers + groups.pop(0)
            logprob_bt, entropy, value_bt = self._scored([rows[number] for number in numbers])
            one = _as_pass(rows, numbers, logprob_bt, entropy, value_bt)
            weights = lower(one)
            total = (torch.from_numpy(pad_rows(weights.logprobs)[0]).to(logprob_bt) * logprob_bt).sum()
            if value_bt is not None and weights.values is not None:
                total = total + (torch.from_numpy(pad_rows(weights.values)[0]).to(value_bt) * value_bt).sum()
            total.backward()
            passes.append(one)
        return passes

    def step(self, settings: StepSettings) -> float | None:
        for group in self._optimizer.param_groups:
            group.update(lr=settings.learning_rate, betas=settings.betas, eps=settings.epsilon)
        norm = float(torch.nn.utils.clip_grad_norm_(self.parameters, settings.max_norm or float("inf")))
        torch.nn.utils.clip_grad_norm_(self._critic, settings.max_norm or float("inf"))
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.steps += 1
        self.close()
        return norm

    def close(self) -> None:
        """Let requests through again."""
        self.model.eval()
        self._held.close()
        self._holds = False

    def publish(self) -> str:
        self.published += 1
        return f"toy+{self.published}"

    def save(self, tag: str) -> dict[str, Any]:
        (self._folder / tag).mkdir(parents=True)
        head = None if self.head is None else self.head.state_dict()
        state = {"adapter": adapter_state(self.model, NAME), "head": head, "steps": self.steps}
        with (self._folder / tag / "learner.pt").open("wb") as file:
            torch.save({**state, "optimizer": self._optimizer.state_dict()}, file)
            os.fsync(file.fileno())
        return {"file": f"{tag}/learner.pt"}

    def load(self, state: Any) -> None:
        from peft import set_peft_model_state_dict

        saved = torch.load(self._folder / state["file"], weights_only=True)
        set_peft_model_state_dict(self.model, saved["adapter"], adapter_name=NAME)
        if self.head is not None:
            self.head.load_state_dict(saved["head"])
        self._optimizer.load_state_dict(saved["optimizer"])
        self.steps = saved["steps"]

    def forget(self, state: Any) -> None:
        (self._folder / state["file"]).unlink()

    def export(self, folder: Path, origin: Mapping[str, Any]) -> None:
        write_adapter(self.model, NAME, folder, origin)

    def _scored(self, rows: Sequence[TrainingRow]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Return logprobs (rows, tokens), their summed entropy, and the critic's values."""
        sequences = [torch.tensor([*row.prompt_ids, *row.completion_ids]) for row in rows]
        output = self.model(input_ids=pad_sequence(sequences, batch_first=True), output_hidden_states=True)
        logprob_blv = torch.log_softmax(output.logits.float() / self._temperature, -1)
        entropy_bl = -(logprob_blv.detach().exp() * logprob_blv.detach()).sum(-1)
        logprobs, values, entropy = [], [], torch.zeros(())
        for at, row in enumerate(rows):
            before = slice(len(row.prompt_ids) - 1, len(row.prompt_ids) + len(row.completion_ids) - 1)
            ids = torch.tensor(row.completion_ids)
            logprobs.append(logprob_blv[at, before].gather(-1, ids[:, None])[:, 0])
            entropy = entropy + entropy_bl[at, before].sum()
            if self.head is not None:
                values.append(self.head(output.hidden_states[-1][at, before].detach())[:, 0])
        value_bt = pad_sequence(values, batch_first=True) if values else None
        return pad_sequence(logprobs, batch_first=True), entropy, value_bt


def _as_pass(
    rows: Sequence[TrainingRow], numbers: Sequence[int], logprob_bt: Any, entropy: Any, value_bt: Any
) -> ForwardPass:
    lengths = [len(rows[number].completion_ids) for number in numbers]

    def unpadded(tensor: Any) -> list[np.ndarray]:
        return [tensor[at, :length].detach().double().numpy() for at, length in enumerate(lengths)]

    values = None if value_bt is None else unpadded(value_bt)
    return ForwardPass(tuple(numbers), unpadded(logprob_bt), float(entropy), values)


@contextmanager
def toy_learner(
    policy: Any, lora: LoraSettings, start: Path | None, seed: int, *, work: Path, **settings: Any
) -> Iterator[ToyLearner]:
    """Attach an adapter to the policy's model for one learner, and detach it afterwards."""
    import peft

    bare = policy.model
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if start is not None:
            model = load_peft_adapter(bare, start, NAME, trainable=True)
        else:
            targets = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
            shape = {"r": lora.rank, "lora_alpha": lora.alpha, "lora_dropout": lora.dropout}
            config = peft.LoraConfig(**shape, target_modules=targets, modules_to_save=lora.save or None)
            model = peft.get_peft_model(bare, config, NAME)
    policy.model = model.eval()
    learner = ToyLearner(model, work, seed=seed, holding=policy.training, **settings)
    try:
        yield learner
    finally:
        learner.close()
        policy.model.delete_adapter(NAME)
        policy.model = policy.model.unload()
        policy.model.requires_grad_(False)
        policy.model.eval()
