"""The online driver: rollouts at every step, policy gradients by TRL's GRPOTrainer.

It is generic over algorithms.
"""

from pathlib import Path
from typing import Any

from sia_runner.schema.training import Algorithm
from sia_runner.training import adapters, algorithms
from sia_runner.training.algorithms.protocol import Loss
from sia_runner.training.checkpoints import Checkpoints
from sia_runner.training.progress import key_of
from sia_runner.training.protocol import Assignment, Trained, TrainingError


def train(assignment: Assignment) -> Trained:
    """Update the weights once; then `assignment.out` is the new adapter, and the policy is as before.

    Resumes from checkpoints in `assignment.work` if there are any. Several processes (torchrun) each call this with the
    same assignment and their own collector; the first one writes. Raises TrainingError.
    """
    online = algorithms.online(assignment.algorithm)
    parent = adapters.version(assignment.start) if assignment.start else None
    checkpoints = Checkpoints(assignment.work, key_of(assignment, parent))
    with adapters.attached(assignment.policy, assignment.algorithm.lora, assignment.start, assignment.seed) as model:
        watch = _run(assignment, online, checkpoints)
        if watch.first:
            adapters.save(model, assignment.out, watch.progress.origin(assignment, parent))
        watch.wait()
    return watch.progress.trained()


def _run(job: Assignment, online: Any, checkpoints: Checkpoints) -> Any:
    try:
        from datasets import Dataset

        from sia_runner.training.forwards import own_forward
        from sia_runner.training.online_trainer import OnlineTrainer
        from sia_runner.training.watch import Watch
    except ImportError as error:
        raise TrainingError(f"{error.name} is missing: pip install 'sia-runner[training]'") from error

    watch = Watch(job, checkpoints)
    args = _config(job.algorithm, online.loss, job.seed, job.work, job.policy.model.device.type)
    # TRL uses only its length: a step's data comes from the rollouts.
    dataset = Dataset.from_dict({"prompt": [""] * job.algorithm.steps * args.world_size})
    with own_forward(job.policy.model.get_base_model()):
        trainer = OnlineTrainer(job, online, args, dataset, [watch])
        try:
            watch.run(trainer)
        finally:
            trainer.dismantle()
    return watch


def _config(algorithm: Algorithm, loss: Loss, seed: int, work: Path, device: str) -> Any:
    from trl.trainer.grpo_config import GRPOConfig

    return GRPOConfig(
        output_dir=str(work),
        max_steps=algorithm.steps,
        learning_rate=algorithm.learning_rate,
        lr_scheduler_type="constant",  # a generation's training is often a stretch of a longer one
        per_device_train_batch_size=2,  # of the dataset above: one fetch a step
        num_generations=2,
        max_completion_length=algorithm.max_length,
        temperature=algorithm.temperature,
        beta=0.0,
        loss_type=loss.loss_type,
        epsilon=loss.epsilon,
        epsilon_high=loss.epsilon_high,
        importance_sampling_level=loss.importance_level,
        router_aux_loss_coef=0.0,  # the router is not trained; the reward alone is followed
        use_cpu=device == "cpu",
        bf16=device != "cpu",
        activation_checkpointing=device != "cpu",
        seed=seed,
        report_to="none",
        logging_strategy="no",
        save_strategy="no",
        disable_tqdm=True,
        remove_unused_columns=False,
        dataloader_pin_memory=False,
        ddp_find_unused_parameters=False,
    )
