"""The policy `backend=tinker`: a service that speaks the Tinker protocol answers, and holds and trains the weights."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sia_runner.config.training import LoraSettings, PolicyConfig
from sia_runner.policy.remote import RemotePolicy
from sia_runner.policy.tinker_client import ModelSettings, TinkerClient, TinkerModel, sdk_version
from sia_runner.policy.tinker_learner import TinkerLearner, as_provider_failure, measure_reduction, model_settings
from sia_runner.policy.tinker_sampler import ServedBase, TinkerSampler, largest_gap, token_count
from sia_runner.wire.learning import SampleSettings
from sia_runner.wire.policy import TrainingCharge

_MODEL_FILE = "tinker_model.json"  # the model that holds a place at the service, for whoever resumes after a kill


class TinkerPolicy(RemotePolicy):
    """A TrainablePolicy at a service."""

    def __init__(self, spec: PolicyConfig, client: TinkerClient) -> None:
        """Connect, and check that the service trains the base. Raises PolicyError."""
        self.client, self.served = client, ServedBase(spec, client)
        self._tinker_sampler = TinkerSampler(self.served)
        super().__init__(spec, self.served.tokenizer, self._tinker_sampler)
        self._chat = self.served.chat
        self.reduction = spec.tinker.reduction

    @property
    def charge(self) -> TrainingCharge:
        """The function that reserves the tokens of training calls in the ledger."""
        return self.served.charge

    @charge.setter
    def charge(self, charge: TrainingCharge) -> None:
        self.served.charge = charge

    @contextmanager
    def learner(
        self,
        lora: LoraSettings,
        start: Path | None,
        seed: int,
        *,
        critic: bool = False,
        work: Path,
        temperature: float = 1.0,
        max_length: int | None = None,
    ) -> Iterator["TinkerLearner"]:
        """Yield a learner with a model of its own at the service, whose id is in `work` until it is freed.

        What it cannot do is in its abilities. Raises PolicyError where the settings cannot be trained there, and
        ProviderDown where the service fails.
        """
        settings, served = model_settings(self.base_id, lora, seed), self.served
        origin = served.service_of(start) if start is not None else {}
        with as_provider_failure():
            _free_model_of_killed_run(self.client, work)
            if self.reduction == "measure":
                rows = served.probe_rows()
                tokens = token_count(rows)  # five forward passes, and four with a gradient, two of them on longer rows
                with placed_model(self.client, settings, work) as probe, self.charge(5 * tokens, 6 * tokens):
                    self.reduction = measure_reduction(probe, rows)  # of this shape: some servers hold no other beside
            with placed_model(self.client, settings, work) as model:
                learner = TinkerLearner(served, self._tinker_sampler, model, settings, self.reduction)
                if origin:
                    learner.load_weights(origin)
                try:
                    yield learner
                finally:
                    self._tinker_sampler.end_training()

    def prove(self, seed: int) -> str:
        """Prove on a model of rank 1, which is deleted, that key, package and service fit; return what was seen.

        It is created, trained for some steps, published and sampled from. Raises PolicyError and ProviderDown.
        """
        row = self.served.neutral_row()
        with as_provider_failure():
            model = self.client.create(ModelSettings(self.base_id, 1, seed))
            try:
                self.reduction = measure_reduction(model, self.served.probe_rows())
                sampling, trained = model.publish(), model.forward([row])
                gap = largest_gap([sampling.score(row)], trained)
                settings = SampleSettings(4, seed=seed)
                ((ids, _, _),) = sampling.sample(row.prompt_ids, 1, settings, self.served.end_ids)
            finally:
                model.unload()
        return (
            f"{self.client.address} trains {self.base_id} (tinker {sdk_version()}): a model of rank 1 was created, "
            f"trained, sampled from ({len(ids)} tokens) and deleted; sampler and learner differ by {gap:.1g} nats; "
            f"losses are reduced by a {self.reduction}"
        )


@contextmanager
def placed_model(client: TinkerClient, settings: ModelSettings, work: Path) -> Iterator[TinkerModel]:
    """Yield a new model, and free its place; its id is on disk meanwhile, as a killed process frees nothing."""
    model = client.create(settings)
    work.mkdir(parents=True, exist_ok=True)
    note = work / _MODEL_FILE
    note.write_text(json.dumps({"model_id": model.model_id}), encoding="utf-8")
    try:
        yield model
    finally:
        if model.unload():
            note.unlink(missing_ok=True)


def _free_model_of_killed_run(client: TinkerClient, work: Path) -> None:
    try:
        model_id = json.loads((work / _MODEL_FILE).read_text(encoding="utf-8"))["model_id"]
    except (OSError, ValueError, KeyError):
        return
    client.unload(model_id)
