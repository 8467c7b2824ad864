"""The names that TRL's trainers take from policy.lora until the loop over a learner replaces them."""

from sia_runner.policy.lora import (
    TRAINED_ADAPTER,
    attached_adapter,
    export_merged_model,
    load_adapter,
    lora_config,
    merge_adapter,
    restore_adapter_state,
)
from sia_runner.wire.adapter_files import CONFIG_FILE, AdapterOrigin, read_adapter_origin

__all__ = [
    "CONFIG_FILE",
    "TRAINED_ADAPTER",
    "AdapterOrigin",
    "attached_adapter",
    "export_merged_model",
    "load_adapter",
    "lora_config",
    "merge_adapter",
    "read_adapter_origin",
    "restore_adapter_state",
]
