"""LoRA of experts that a model stacks in one parameter, as two products for each expert.

PEFT holds, names, saves and loads the adapter. Its own forward pass adds the product of both matrices to all experts'
weights, which takes as much memory as the weights; here tokens go through both matrices one after the other. For
expert e with weights W_e: y = W_e x + scaling * B_e A_e x.

Axes: s choices (a token and one of its experts), sorted by expert; e experts; i inputs, r rank, o outputs.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from sia_runner.errors import TrainingError

_PROJECTIONS = ("gate_up_proj", "down_proj")
_ALIGNED = 16  # bytes, to which grouped products want rows to be aligned
_grouped_mm: Any = getattr(functional, "grouped_mm", None) or getattr(torch, "_grouped_mm")  # noqa: B009 - of 2.9


def replace_expert_forward(model: Any) -> None:
    """Let all experts of PEFT's model that have an adapter compute as this module does.

    Raises TrainingError, by name, for experts that are not computed here.
    """
    from peft.tuners.lora.layer import ParamWrapper

    inner = {module.base_layer for module in model.modules() if isinstance(module, ParamWrapper)}
    for path, module in model.named_modules():
        if isinstance(module, ParamWrapper) and module not in inner:
            vars(module)["forward"] = _AdaptedExperts(path, module).forward


class _AdaptedExperts:
    """The experts of one layer, with the adapters of both their projections."""

    def __init__(self, path: str, outermost: Any) -> None:
        wrappers, layer = {}, outermost
        while hasattr(layer, "parameter_name"):
            wrappers[layer.parameter_name], layer = layer, layer.base_layer
        self._wrapper, self._experts = wrappers, layer
        if set(wrappers) != {*_PROJECTIONS}:  # vLLM serves no others
            raise TrainingError(
                f"trainer.lora.parameters adapts {', '.join(sorted(wrappers))} of {path}; allowed with trainer.shards: "
                "experts.gate_up_proj and experts.down_proj together, or [], which leaves the experts as they are"
            )
        features = ("is_transposed", "has_bias", "has_gate", "num_experts")
        plain = all(hasattr(layer, name) for name in features) and layer.has_gate
        if not plain or getattr(layer, "has_post_expert_norm", False):
            raise TrainingError(
                f"trainer.lora.parameters: the experts of {path} ({type(layer).__name__}) are not computed with "
                "trainer.shards; allowed: [], which leaves the experts as they are"
            )

    def forward(self, state_tm: Tensor, index_tk: Tensor, weight_tk: Tensor) -> Tensor:
        """Return the mixed answers of each token's experts: (tokens, model) -> (tokens, model)."""
        outermost = self._wrapper[_PROJECTIONS[0]]
        if outermost.disable_adapters:
            return self._experts(state_tm, index_tk, weight_tk)
        count, chosen = index_tk.shape
        expert_s, order_s = torch.sort(index_tk.flatten(), stable=True)
        end_e = torch.bincount(expert_s, minlength=self._experts.num_experts).cumsum(0).to(torch.int32)
        state_si = state_tm[order_s // chosen]
        gate_up_so = self._project("gate_up_proj", state_si, expert_s, end_e)
        answer_so = self._project("down_proj", self._experts._apply_gate(gate_up_so), expert_s, end_e)
        mixed_so = torch.empty_like(answer_so).index_copy(0, order_s, answer_so * weight_tk.flatten()[order_s, None])
        return mixed_so.view(count, chosen, -1).sum(1).to(state_tm.dtype)

    def _project(self, name: str, state_si: Tensor, expert_s: Tensor, end_e: Tensor) -> Tensor:
        weight = getattr(self._experts, name)
        weight_eio = weight if self._experts.is_transposed else weight.transpose(1, 2)
        state_si = state_si.to(weight.dtype)
        output_so = _grouped_mm(state_si, weight_eio, offs=end_e)
        if self._experts.has_bias:
            output_so = output_so + getattr(self._experts, f"{name}_bias")[expert_s]
        wrapper = self._wrapper[name]
        for adapter in wrapper.active_adapters:
            a_eir, b_ero = self._factors(wrapper, adapter, weight.dtype)
            delta_so = _grouped_mm(_grouped_mm(state_si, a_eir, offs=end_e), b_ero, offs=end_e)
            output_so = torch.add(output_so, delta_so, alpha=wrapper.scaling[adapter])
        return output_so

    def _factors(self, wrapper: Any, adapter: str, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return both matrices of each expert, as PEFT stacks them; a rank that is not aligned gets zeros."""
        a, b, experts = wrapper.lora_A[adapter].weight, wrapper.lora_B[adapter].weight, self._experts.num_experts
        a_eri = a.to(dtype).view(experts, -1, a.shape[1])
        b_ore = b.to(dtype).view(b.shape[0], -1, experts)
        missing = -a_eri.shape[1] % (_ALIGNED // a_eri.element_size())
        a_eri = functional.pad(a_eri, (0, 0, 0, missing))
        b_ero = functional.pad(b_ore.permute(2, 1, 0), (0, 0, 0, missing)).contiguous()
        return a_eri.transpose(1, 2), b_ero
