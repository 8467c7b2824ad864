"""LoRA adapters: attach, load onto their own base only, merge, export."""

import importlib.util
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

from sia_runner.config.training import LoraSettings
from sia_runner.errors import TrainingError
from sia_runner.text import first_line
from sia_runner.wire.adapter_files import (
    ORIGIN_FILE,
    active_adapters,
    load_peft_adapter,
    read_adapter_origin,
    why_not_this_base,
)

TRAINED_ADAPTER = "default"  # name of the adapter under training
_PACKAGES = ("torch", "peft", "trl", "datasets", "accelerate")


class LoadedModel(Protocol):
    """A base in memory, which adapters are put on; `model` is set to PEFT's model, and back."""

    model: Any
    tokenizer: Any
    base_id: str
    base_sha256: str
    trust_base: bool  # take adapters that a service trained, on the user's word


def check_training_packages() -> None:
    """Raise TrainingError, with the names, if packages of the extra are missing."""
    missing = [name for name in _PACKAGES if importlib.util.find_spec(name) is None]
    if missing:
        raise TrainingError(f"{missing[0]} is missing: pip install 'sia-runner[training]'")


@contextmanager
def attached_adapter(policy: LoadedModel, lora: LoraSettings, start: Path | None, seed: int) -> Iterator[Any]:
    """Yield PEFT's model with a trainable adapter: a copy of `start` in its own shape, or a new one without effect yet.

    The earlier live weights follow. Raises TrainingError, also where `start` or `lora` is not for this base.
    """
    check_training_packages()
    import peft
    import torch

    # PEFT and TRL warn of each other's names.
    warnings.filterwarnings("ignore", message=".*gradient_checkpointing.*deprecated", category=FutureWarning)
    previous = active_adapters(policy.model)
    with torch.random.fork_rng():
        torch.manual_seed(seed)  # the A matrices of a new adapter are drawn at random
        try:
            if start is not None:
                own = policy.base_sha256, TRAINED_ADAPTER
                policy.model = load_adapter(policy.model, start, *own, trainable=True, trust_base=policy.trust_base)
            elif previous is not None:
                policy.model.add_adapter(TRAINED_ADAPTER, lora_config(lora, policy.model))
            else:
                policy.model = peft.get_peft_model(policy.model, lora_config(lora, policy.model), TRAINED_ADAPTER)
        except ValueError as error:  # PEFT's way of saying that no module has such a name
            raise TrainingError(f"trainer.lora does not fit {policy.base_id}: {first_line(error)}") from error
    try:
        model: Any = policy.model
        model.base_model.enable_adapter_layers()
        model.set_adapter(TRAINED_ADAPTER)
        if hasattr(model.get_output_embeddings(), "lora_A"):  # TRL reads the head's weight, not its adapter
            raise TrainingError("trainer.lora.targets names the head of the model; put it into trainer.lora.save")
        model.eval()  # new layers start in train mode, and the policy may be asked before the first step
        yield model
    finally:
        if previous is not None:
            names, disabled = previous
            policy.model.base_model.set_adapter(names, inference_mode=True)
            policy.model.delete_adapter(TRAINED_ADAPTER)
            if disabled:
                policy.model.base_model.disable_adapter_layers()
        else:
            # Deleted first: with an adapter live, PEFT's unload would leave its modules_to_save in the base.
            policy.model.delete_adapter(TRAINED_ADAPTER)
            policy.model = policy.model.unload()
        policy.model.requires_grad_(False)
        policy.model.eval()


def lora_config(lora: LoraSettings, model: Any) -> Any:
    """Return a peft.LoraConfig; embeddings and head that share weights are trained as one, so merging is exact."""
    from peft import LoraConfig
    from transformers.pytorch_utils import Conv1D

    tied = bool(lora.save) and bool(getattr(model.config, "tie_word_embeddings", False))
    experts = _expert_parameters(model) if lora.parameters == "auto" else lora.parameters
    targets = _linear_layers(model) if lora.targets == "all-linear" else lora.targets
    if not targets and not experts:
        raise TrainingError("trainer.lora.targets: no layer to adapt; the base has no linear layers, so name some")
    base = _base_of(model)
    paths = [path for named in (base.named_modules, base.named_parameters) for path, _ in named()]
    split_paths = [path.replace(".base_layer", "").split(".") for path in paths]
    ends = {".".join(parts[-k:]) for parts in split_paths for k in (1, 2, 3)}
    for key, names in (("targets", targets), ("parameters", experts), ("save", lora.save)):
        if unknown := sorted({*names} - ends - {*paths}):
            layers = ", ".join(_linear_layers(model))
            raise TrainingError(f"trainer.lora.{key}: the base has no {unknown[0]}; its linear layers are {layers}")
    if experts and lora.dropout:
        raise TrainingError(
            f"trainer.lora.dropout={lora.dropout:g}: PEFT adapts experts ({', '.join(experts)}) without dropout only; "
            "allowed: 0, or trainer.lora.parameters=[], which leaves the experts as they are"
        )
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        target_parameters=experts or None,
        modules_to_save=lora.save or None,
        ensure_weight_tying=tied,
        fan_in_fan_out=any(isinstance(module, Conv1D) for module in base.modules()),  # PEFT would warn, and set it
        task_type="CAUSAL_LM",
    )


def _linear_layers(model: Any) -> list[str]:
    """Return the names of the base's linear layers, without the head and routers, which stand beside their experts.

    PEFT's own "all-linear" would also take the layers of an adapter that is served already. A small change of a router
    sends a token to other experts, so a server that rounds differently would answer with weights that were not trained.
    """
    from torch import nn
    from transformers.pytorch_utils import Conv1D  # GPT-2's linear layers

    base = _base_of(model)
    foreign = ("lora_", "modules_to_save", "original_module")
    linear = [path for path, module in base.named_modules() if isinstance(module, nn.Linear | Conv1D)]
    paths = [path for path in linear if not hasattr(base.get_submodule(path.rpartition(".")[0]), "experts")]
    own = [path.removesuffix(".base_layer") for path in paths if not any(part in path for part in foreign)]
    head = next((path for path, module in base.named_modules() if module is base.get_output_embeddings()), None)
    return sorted({path.rpartition(".")[2] for path in own if path != head})


def _expert_parameters(model: Any) -> list[str]:
    """Return the names of weights that stack all experts of a layer, as in gpt-oss: they are no linear layers."""
    base = _base_of(model)
    stacked = [path for path, weight in base.named_parameters() if weight.ndim == 3 and "lora_" not in path]
    return sorted({".".join(path.replace(".base_layer", "").split(".")[-3:]) for path in stacked})


def _base_of(model: Any) -> Any:
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def load_adapter(
    model: Any, path: Path, base_sha256: str, name: str, *, trainable: bool = False, trust_base: bool = False
) -> Any:
    """Load the adapter in `path` as `name`; return PEFT's model. Raises TrainingError if it is for another base."""
    check_training_packages()
    written = asdict(read_adapter_origin(path))
    if reason := why_not_this_base(written, "the base that is loaded", base_sha256, trust_base=trust_base):
        raise TrainingError(f"the adapter {path} {reason}")
    return load_peft_adapter(model, path, name, trainable=trainable)


@contextmanager
def adapter_in_weights_dtype(model: Any) -> Iterator[None]:
    """Compute the live adapter in the dtype of the base while a model samples; gradients need PEFT's own way.

    PEFT multiplies by a float32 adapter in float32, with several operations for each layer: beside a base in bfloat16
    that takes as long as the base. Rounding the adapter changes its effect by less than 1 part in 200.
    """
    if not hasattr(model, "peft_config"):
        yield
        return
    from peft.tuners.lora.layer import Linear

    changed: list[Any] = []
    layers: list[Any] = [layer for layer in model.modules() if isinstance(layer, Linear)]
    try:
        for layer in layers:
            if (forward := _forward_in_weights_dtype(layer)) is not None:
                layer.forward = forward
                changed.append(layer)
        yield
    finally:
        for layer in changed:
            del layer.forward


def _forward_in_weights_dtype(layer: Any) -> Callable[[Any], Any] | None:
    """Return a forward of a LoRA layer; None where its adapter has the base's dtype, or is more than two matrices."""
    from torch import addmm
    from torch.nn import Linear
    from torch.nn.functional import linear

    names = [name for name in layer.active_adapters if name in layer.lora_A]
    base = layer.base_layer
    if layer.disable_adapters or layer.merged or len(names) != 1 or type(base) is not Linear:
        return None
    (name,) = names
    down, up = layer.lora_A[name], layer.lora_B[name]
    if name in layer.lora_variant or up.bias is not None or down.weight.dtype == base.weight.dtype:
        return None
    down_ri = down.weight.detach().to(base.weight.dtype)
    up_ro = (up.weight.detach() * layer.scaling[name]).to(base.weight.dtype).T

    def forward(input_bti: Any) -> Any:
        output_bto = base(input_bti)
        input_ni = input_bti.flatten(0, -2)
        return addmm(output_bto.flatten(0, -2), linear(input_ni, down_ri), up_ro).view_as(output_bto)

    return forward


def restore_adapter_state(model: Any, tensors: Mapping[str, Any]) -> None:
    """Load tensors from `state` into the adapter under training."""
    from peft import set_peft_model_state_dict

    result = set_peft_model_state_dict(model, dict(tensors), adapter_name=TRAINED_ADAPTER)
    if result.unexpected_keys:
        raise TrainingError(f"a checkpoint of another adapter: {result.unexpected_keys[0]} is not in this one")


def merge_adapter(model: Any, path: Path, base_sha256: str, *, trust_base: bool = False) -> Any:
    """Merge an adapter into the base's weights; return a plain transformers model. The given base is consumed."""
    merged = load_adapter(model, path, base_sha256, TRAINED_ADAPTER, trust_base=trust_base).merge_and_unload()
    if getattr(merged.config, "tie_word_embeddings", False):
        merged.tie_weights()
    return merged


def export_merged_model(policy: LoadedModel, path: Path, out: Path) -> None:
    """Write base and adapter merged, with the tokenizer, as a model folder that needs no PEFT."""
    merged = merge_adapter(policy.model, path, policy.base_sha256, trust_base=policy.trust_base)
    merged.save_pretrained(str(out))
    policy.tokenizer.save_pretrained(str(out))
    shutil.copyfile(path / ORIGIN_FILE, out / ORIGIN_FILE)
