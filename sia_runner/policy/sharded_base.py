"""A frozen base divided over processes by FSDP2: built without memory, then read from its files a part at a time.

Each process reads the rows of its own shard only, so it never holds more than its shard and the part under way: a block
of rows, or one expert. An adapter that is on the model is replicated.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import safe_open
from torch import Tensor, nn

from sia_runner.policy.base_model import weights_dtype
from sia_runner.text import first_line
from sia_runner.wire.policy import PolicyError

_BLOCK_BYTES = 2**26  # of a parameter, read at once
_EXPERT_PARTS = {"gate_up_proj": ("gate_proj", "up_proj"), "down_proj": ("down_proj",)}  # of files with an entry each


def weightless_model(folder: Path, dtype: str, device: str = "cpu") -> Any:
    """Return the base's model whose parameters have shapes, but take no memory until `shard_and_load`.

    Its buffers are real. Raises PolicyError.
    """
    from accelerate import init_empty_weights
    from transformers import AutoConfig, AutoModelForCausalLM

    try:
        config: Any = AutoConfig.from_pretrained(folder)
        if hasattr(config, "quantization_config"):
            method = (config.quantization_config or {}).get("quant_method")
            if method != "mxfp4":
                raise PolicyError(f"base={folder}: its weights are stored as {method}; trainer.shards reads mxfp4 only")
            del config.quantization_config
        with init_empty_weights(include_buffers=False):
            model: Any = AutoModelForCausalLM.from_config(config, dtype=weights_dtype(dtype, device))
    except (OSError, ValueError, KeyError) as error:
        raise PolicyError(f"base={folder} cannot be loaded: {first_line(error)}") from None
    if not isinstance(getattr(model.base_model, "layers", None), nn.ModuleList):
        raise PolicyError(f"base={folder}: trainer.shards divides models with a list of layers; this one has none")
    model.tie_weights()  # each place has got a parameter of its own
    # PEFT puts an adapter where the base is. A number that is repeated is a parameter on the CPU without memory.
    _replace_parameters(model, lambda weight: torch.zeros((), dtype=weight.dtype).expand(weight.shape))
    return model.requires_grad_(False).eval()


def shard_and_load(model: Any, folder: Path, device: str) -> None:
    """Divide the base below PEFT's model over all processes, and read its weights from `folder`.

    The adapter goes to `device` whole. All processes call this together. Raises PolicyError, by name, where the files
    hold the weights in a layout that is not read here.
    """
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import fully_shard

    base = model.get_base_model()
    adapter = {weight for name, weight in model.named_parameters() if "lora_" in name}
    for weight in adapter:
        weight.data = weight.data.to(device)
    ties = _ties(base)
    _replace_parameters(base, lambda weight: torch.empty(weight.shape, dtype=weight.dtype, device="meta"), adapter)
    mesh = init_device_mesh(device, (dist.get_world_size(),))
    for module in (*base.base_model.layers, base):
        # Also the outermost: what one process does alone, such as saving the adapter, must not change what is gathered.
        fully_shard(module, mesh=mesh, ignored_params=adapter, reshard_after_forward=True)
    base._apply(lambda tensor: torch.empty_like(tensor, device=device) if tensor.is_meta else tensor.to(device))
    for name, other in ties:
        module, _, leaf = other.rpartition(".")
        setattr(base.get_submodule(module), leaf, base.get_parameter(name))
    files = SafetensorsFolder(folder)
    with torch.no_grad():
        for name, weight in base.named_parameters():
            if weight not in adapter:
                _load_shard(files, name.replace(".base_layer", ""), weight)
        for name, other in ties:
            _check_tie(
                files, name.replace(".base_layer", ""), other.replace(".base_layer", ""), base.get_parameter(name)
            )


def _ties(model: nn.Module) -> list[tuple[str, str]]:
    """Return the names of parameters that share their memory, such as embeddings and head, in pairs with the first."""
    first: dict[int, str] = {}
    names = [
        (first.setdefault(id(weight), name), name) for name, weight in model.named_parameters(remove_duplicate=False)
    ]
    return [(one, other) for one, other in names if one != other]


def _replace_parameters(model: nn.Module, new: Callable[[Tensor], Tensor], keep: Any = ()) -> None:
    """Replace parameters that are not in `keep`; those that share their memory go on sharing it."""
    made: dict[int, tuple[Tensor, nn.Parameter]] = {}  # holds the old ones: an id is used again
    for module in model.modules():
        for name, weight in list(module.named_parameters(recurse=False, remove_duplicate=False)):
            if weight not in keep:
                if id(weight) not in made:
                    made[id(weight)] = weight, nn.Parameter(new(weight), requires_grad=weight.requires_grad)
                module._parameters[name] = made[id(weight)][1]


class SafetensorsFolder:
    """The tensors of a folder of safetensors files, by name; rows are read, never whole files."""

    def __init__(self, folder: Path) -> None:
        """Read the files' tables of contents. Raises PolicyError without any file."""
        self.folder, self._files = folder, dict[str, Path]()
        for file in sorted(folder.glob("*.safetensors")):
            with safe_open(file, "pt") as tensors:
                self._files |= dict.fromkeys(tensors.keys(), file)
        if not self._files:
            raise PolicyError(f"{folder} holds no safetensors files, which trainer.shards reads")

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def rows(self, name: str, start: int, stop: int) -> Tensor:
        """Return rows `start` to `stop` of a tensor."""
        with safe_open(self._files[name], "pt") as tensors:
            return tensors.get_slice(name)[start:stop]

    def whole(self, name: str) -> Tensor:
        """Return a tensor."""
        with safe_open(self._files[name], "pt") as tensors:
            return tensors.get_tensor(name)


def _load_shard(files: SafetensorsFolder, name: str, weight: Any) -> None:
    """Fill this process's rows of a parameter that is divided by its first axis."""
    own: Tensor = weight.to_local()
    for first, part in _own_parts(files, name, weight):
        own[first : first + part.shape[0]].copy_(part)


def _own_parts(files: SafetensorsFolder, name: str, weight: Any) -> Iterator[tuple[int, Tensor]]:
    """Yield (first row of the shard, rows) of this process's shard."""
    size = -(-weight.shape[0] // dist.get_world_size())
    start = min(size * dist.get_rank(), weight.shape[0])
    for first, part in _parts(files, name, tuple(weight.shape), start, start + weight.to_local().shape[0]):
        yield first - start, part


def _check_tie(files: SafetensorsFolder, name: str, other: str, weight: Any) -> None:
    """Raise PolicyError if the files hold different weights for parameters that the configuration makes one."""
    if other not in files or name not in files:
        return
    parts = (_own_parts(files, one, weight) for one in (name, other))
    if any(not torch.equal(part, second) for (_, part), (_, second) in zip(*parts, strict=True)):
        raise PolicyError(f"{files.folder}: config.json ties {other} to {name}, but their weights differ")


def _parts(
    files: SafetensorsFolder, name: str, shape: tuple[int, ...], start: int, stop: int
) -> Iterator[tuple[int, Tensor]]:
    """Yield (first row, rows) of a parameter from `start` to `stop`, however the files hold it."""
    entries, step = _entries_of_expert(name), 1
    if name in files:
        read = partial(files.rows, name)
        step = max(1, _BLOCK_BYTES // (4 * max(1, torch.Size(shape[1:]).numel())))
    elif f"{name}_blocks" in files:
        read = partial(_four_bit_rows, files, name)
    elif entries and all(entry.format(0) in files for entry in entries):
        read = partial(_expert_of_entries, files, entries)
    else:
        raise PolicyError(
            f"{files.folder} has no {name}; trainer.shards reads safetensors files with transformers' own names, "
            "gpt-oss's 4-bit experts, and experts with an entry each"
        )
    for first in range(start, stop, step):
        part = read(first, min(first + step, stop))
        if tuple(part.shape[1:]) != shape[1:]:
            raise PolicyError(f"{files.folder}: {name} is {list(part.shape[1:])} a row, the model's {list(shape[1:])}")
        yield first, part


def _four_bit_rows(files: SafetensorsFolder, name: str, start: int, stop: int) -> Tensor:
    """Return experts of gpt-oss, whose files hold 4 bits a number and a power of two for each 32 of them."""
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    blocks, scales = (files.rows(f"{name}_{kind}", start, stop) for kind in ("blocks", "scales"))
    return convert_moe_packed_tensors(blocks, scales)


def _entries_of_expert(name: str) -> list[str]:
    """Return the names in files that have an entry for each expert, with {} for its number."""
    match = re.fullmatch(r"(.*\.experts)\.(gate_up_proj|down_proj)", name)
    return [f"{match[1]}.{{}}.{part}.weight" for part in _EXPERT_PARTS[match[2]]] if match else []


def _expert_of_entries(files: SafetensorsFolder, entries: Sequence[str], start: int, stop: int) -> Tensor:
    """Return expert number `start`, whose files have an entry for each of its matrices."""
    return torch.cat([files.whole(entry.format(start)) for entry in entries])[None]
