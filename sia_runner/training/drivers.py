"""One update of the weights: a learner of the policy, and the loop of the algorithm's kind."""

from sia_runner.config.training import AlgorithmConfig
from sia_runner.errors import TrainingError
from sia_runner.stage_results import TrainingResult
from sia_runner.training.algorithms.base import ALGORITHMS, offline_algorithm, online_algorithm
from sia_runner.training.checkpoints import CheckpointStore, TrainingState, training_key
from sia_runner.training.loop import OnlineLoop
from sia_runner.training.protocol import TrainingJob
from sia_runner.training.rounds import OfflineRounds
from sia_runner.wire.adapter_files import adapter_sha256
from sia_runner.wire.learning import LearnerAbilities


def train(job: TrainingJob) -> TrainingResult:
    """Update the weights once; then `job.out` is the new adapter, and the policy is as before.

    Resumes from checkpoints in `job.work`. Several processes (torchrun) each call this with the same job and their own
    collector; the first one writes. Raises TrainingError, also if the first rollouts have nothing to learn from.
    """
    algorithm = job.algorithm
    if algorithm.kind == "online":
        online = online_algorithm(algorithm)
        critic, run = online.critic is not None, lambda state: OnlineLoop(state, online).run()
    else:
        offline = offline_algorithm(algorithm)
        critic, run = False, lambda state: OfflineRounds(state, offline).run()
    # Rollouts at another temperature are of another policy, to which ratios and the KL refer; rows that were selected
    # from them are learned as they are.
    temperature = algorithm.temperature if algorithm.kind == "online" else 1.0
    parent = adapter_sha256(job.start) if job.start else None
    checkpoints = CheckpointStore(job.work, training_key(job, parent))
    with job.policy.learner(
        algorithm.lora,
        job.start,
        job.seed,
        critic=critic,
        temperature=temperature,
        max_length=algorithm.max_length,
        work=job.work,
    ) as learner:
        _check_abilities(algorithm, learner.abilities, critic)
        state = TrainingState(job, learner, checkpoints)
        progress = run(state)
        learner.export(job.out, progress.origin(job, parent))
        state.processes.wait()
    return progress.trained(algorithm)


def _check_abilities(algorithm: AlgorithmConfig, abilities: LearnerAbilities, critic: bool) -> None:
    """Raise TrainingError if the learner cannot do what an algorithm needs."""
    if critic and not abilities.critic:
        others = ", ".join(sorted(name for name, (kind, _) in ALGORITHMS.items() if name != "ppo" and kind == "online"))
        raise TrainingError(f"algorithm={algorithm.algorithm}: this policy trains no value head; without one: {others}")
    if algorithm.kind == "online" and algorithm.temperature != 1 and not abilities.temperature:
        raise TrainingError(f"temperature={algorithm.temperature:g}: this policy is trained at temperature 1 only")
    if algorithm.processes > 1 and not abilities.processes:
        raise TrainingError(f"processes={algorithm.processes}: this policy is trained by one process; allowed: 1")
    if algorithm.overlap and not abilities.overlap:
        raise TrainingError("overlap=1: what answers is what is trained, so rollouts have to wait; allowed: 0")
