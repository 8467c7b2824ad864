"""The two training drivers: online (rollouts at every step, TRL's GRPOTrainer) and offline (TRL's SFT or DPO).

Both are generic over algorithms, and import heavy packages only when a training starts.
"""

from dataclasses import asdict
from typing import Any

from sia_runner.stage_results import TrainingResult
from sia_runner.training import adapters
from sia_runner.training.algorithms.base import PolicyLoss, online_algorithm
from sia_runner.training.progress import CheckpointStore, TrainingProgress, training_key
from sia_runner.training.protocol import TrainingJob
from sia_runner.wire.adapter_files import adapter_sha256, write_adapter


def train(job: TrainingJob) -> TrainingResult:
    """Update the weights once; then `job.out` is the new adapter, and the policy is as before.

    Resumes from checkpoints in `job.work`. Several processes (torchrun) each call this with the same job and their own
    collector; the first one writes. Raises TrainingError, also if the first rollouts have nothing to learn from.
    """
    parent = adapter_sha256(job.start) if job.start else None
    checkpoints = CheckpointStore(job.work, training_key(job, parent))
    with adapters.attached_adapter(job.policy, job.algorithm.lora, job.start, job.seed) as model:
        from accelerate import PartialState

        if job.algorithm.kind == "online":
            progress = _run_online(job, checkpoints)
        else:
            from sia_runner.training.offline_trainers import OfflineTraining

            progress = OfflineTraining(job, checkpoints).run()
        if PartialState().is_main_process:
            write_adapter(model, adapters.TRAINED_ADAPTER, job.out, asdict(progress.origin(job, parent)))
        PartialState().wait_for_everyone()
    return progress.trained(job.algorithm)


def trainer_settings(job: TrainingJob, steps: int, rows: int) -> dict[str, Any]:
    """Return what the configurations of all TRL trainers have in common; `rows` per device and step."""
    cpu = job.policy.model.device.type == "cpu"
    return {
        "output_dir": str(job.work),
        "max_steps": steps,
        "learning_rate": job.algorithm.learning_rate,
        # So that a step is the same wherever training was cut; a generation's training is a stretch of a longer one.
        "lr_scheduler_type": "constant",
        "per_device_train_batch_size": rows,
        "use_cpu": cpu,
        "bf16": not cpu,
        "activation_checkpointing": not cpu,
        "seed": job.seed,
        "report_to": "none",
        "logging_strategy": "no",
        "save_strategy": "no",
        "disable_tqdm": True,
        "remove_unused_columns": False,
        "dataloader_pin_memory": False,
        "ddp_find_unused_parameters": False,
    }


def _run_online(job: TrainingJob, checkpoints: CheckpointStore) -> TrainingProgress:
    from datasets import Dataset

    from sia_runner.training.forward import trl_forward
    from sia_runner.training.monitor import TrainingMonitor
    from sia_runner.training.online_trainer import OnlineTrainer

    online = online_algorithm(job.algorithm)
    watch = TrainingMonitor(job, checkpoints)
    args = _grpo_config(job, online.loss)
    # TRL uses only its length: a step's data comes from the rollouts.
    dataset = Dataset.from_dict({"prompt": [""] * job.algorithm.steps * args.world_size})
    with trl_forward(job.policy.model.get_base_model()):
        trainer = OnlineTrainer(job, online, args, dataset, [watch])
        try:
            watch.run(trainer)
        finally:
            trainer.dismantle()
    return watch.progress


def _grpo_config(job: TrainingJob, loss: PolicyLoss) -> Any:
    from trl.trainer.grpo_config import GRPOConfig

    return GRPOConfig(
        **trainer_settings(job, job.algorithm.steps, 2),  # rows of the dataset above: one fetch a step
        num_generations=2,
        max_completion_length=job.algorithm.max_length,
        temperature=job.algorithm.temperature,
        beta=0.0,
        loss_type=loss.loss_type,
        epsilon=loss.epsilon,
        epsilon_high=loss.epsilon_high,
        importance_sampling_level=loss.importance_level,
        router_aux_loss_coef=0.0,  # the router is not trained; the reward alone is followed
    )
