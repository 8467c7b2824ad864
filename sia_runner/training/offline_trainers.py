"""TRL's SFT and DPO trainers on rows of token ids, and the measurement of the policy after a round of rollouts."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from datasets import Dataset
from transformers import PrinterCallback, TrainerCallback
from trl.trainer.dpo_config import DPOConfig
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.sft_config import SFTConfig
from trl.trainer.sft_trainer import SFTTrainer
from trl.trainer.utils import add_fused_lm_head

from sia_runner.config.training import AlgorithmConfig
from sia_runner.training import adapters, forward
from sia_runner.training.algorithms.base import OfflineAlgorithm
from sia_runner.training.batch import RolloutBatch, derive_seed
from sia_runner.training.drivers import TokenRow, trainer_settings
from sia_runner.training.progress import TrainingStep, kl_row_stride
from sia_runner.training.protocol import TrainablePolicy, TrainingJob
from sia_runner.training.trl_forward import trl_forward


def fit_rows(
    job: TrainingJob,
    offline: OfflineAlgorithm,
    batches: Sequence[Sequence[TokenRow]],
    first: int,
    optimizer: dict[str, Any] | None,
    stepped: Callable[[Any], None],
) -> None:
    """Take one optimizer step per batch, in order, from the optimizer's state if there is one.

    `first` is the number of the first step. `stepped` is called with the optimizer after each. Every process takes the
    same number of rows.
    """
    supervised = offline.trainer == "sft"
    processes = PartialState().num_processes
    share = max(1, len(batches[0]) // processes)
    rows = [batch[index % len(batch)] for batch in batches for index in range(share * processes)]
    dataset = Dataset.from_list([_supervised_row(row) if supervised else row for row in rows])
    config, trainer_class = _SFT if supervised else _DPO
    # Rows are selected by length already, and in order.
    own: dict[str, Any] = {"max_length": None, "train_sampling_strategy": "sequential"}
    own |= {"dataset_kwargs": {"skip_prepare_dataset": True}} if supervised else {}
    with trl_forward(job.policy.model.get_base_model()):
        trainer = trainer_class(
            model=job.policy.model,
            args=config(**trainer_settings(job, len(batches), share), **own, **offline.settings),
            train_dataset=dataset,
            processing_class=job.policy.tokenizer,
            callbacks=[_StepCallback(job.seed, first, optimizer, stepped)],
        )
        trainer.remove_callback(PrinterCallback)  # prints on standard output
        if "ref" in job.policy.model.peft_config:
            job.policy.model.delete_adapter("ref")  # without it TRL's reference is the base
            job.policy.model.set_adapter(adapters.TRAINED_ADAPTER)
        trainer.train()


class _TokenizedDpoTrainer(DPOTrainer):
    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        """Return the dataset as it is: rows are token ids already."""
        return dataset


_SFT: tuple[Any, Any] = (SFTConfig, SFTTrainer)
_DPO: tuple[Any, Any] = (DPOConfig, _TokenizedDpoTrainer)


class _StepCallback(TrainerCallback):
    def __init__(self, seed: int, first: int, optimizer: dict[str, Any] | None, stepped: Callable[[Any], None]) -> None:
        self._seed, self._first, self._saved, self._stepped = seed, first, optimizer, stepped

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if self._saved is not None:
            kwargs["optimizer"].load_state_dict(self._saved)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        torch.manual_seed(derive_seed(self._seed, self._first + state.global_step, args.process_index))  # dropout's

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self._stepped(kwargs["optimizer"])


def _supervised_row(row: TokenRow) -> TokenRow:
    """Convert a row; the loss is on the completion only."""
    return {
        "input_ids": row["prompt_ids"] + row["completion_ids"],
        "labels": [-100] * len(row["prompt_ids"]) + row["completion_ids"],
    }


@torch.no_grad()
def measure_policy(policy: TrainablePolicy, batch: RolloutBatch, algorithm: AlgorithmConfig) -> TrainingStep:
    """Measure the rolled-out policy on a part of its rows: KL to the base (as in the online driver) and entropy."""
    measured = range(0, len(batch.rows), kl_row_stride(len(batch.rows)))
    chunks = forward.deal_chunks(batch, measured, 0, 1, forward.chunk_token_limit(algorithm.max_length))
    kl = entropy = tokens = rows = 0.0
    model = policy.model
    with policy.training(), trl_forward(model.get_base_model()):
        model.eval()
        add_fused_lm_head(model.get_base_model(), algorithm.temperature, outputs=("log_probs", "entropy"))
        for chunk in chunks:
            part = forward.chunk_tensors(batch, chunk, int(policy.tokenizer.pad_token_id), model.device)
            entropy_bt, mask_bt = _score_tokens(model, part).entropy, part["completion_mask"]
            with model.disable_adapter():
                base_bt = _score_tokens(model, part).log_probs
            gap_bt = (base_bt[:, -mask_bt.shape[1] :] - part["old_per_token_logps"]).clamp(max=20) * mask_bt
            kl += float((gap_bt.exp() - gap_bt - 1).sum())
            entropy += float((entropy_bt[:, -mask_bt.shape[1] :] * mask_bt).sum())
            tokens, rows = tokens + int(mask_bt.sum()), rows + len(mask_bt)
    return TrainingStep(
        reward=float(batch.reward_n.mean()),
        kl=kl / rows,
        entropy=entropy / tokens,
        zero_groups=batch.equal_reward_share(),
        length=float(np.mean([len(row.completion_ids) for row in batch.rows])),
        tokens=0,
    )


def _score_tokens(model: Any, part: dict[str, Any]) -> Any:
    ids = torch.cat([part["prompt_ids"], part["completion_ids"]], dim=1)
    mask = torch.cat([part["prompt_mask"], part["completion_mask"]], dim=1)
    return model(input_ids=ids, attention_mask=mask, labels=ids.masked_fill(mask == 0, -100), fused_lm_head=True)
