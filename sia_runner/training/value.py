"""The critic's value head: a linear read-out of the policy's own hidden states."""

from typing import Any

from torch import Tensor, nn


class ValueHead(nn.Linear):
    """Value of a state, from the last hidden state: (..., hidden) -> (...). Starts at zero.

    It reads detached states, so that a critic that is still wrong cannot move the policy, and one copy of the weights
    serves both (a value model of its own, as in Ouyang et al. 2022, would be a second one)."""

    def __init__(self, hidden: int) -> None:
        super().__init__(hidden, 1)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(input.detach().to(self.weight.dtype)).squeeze(-1)


class HiddenStates:
    """Remembers what a backbone returned last, so that values need no forward pass of their own."""

    def __init__(self, backbone: nn.Module) -> None:
        self._last: Tensor | None = None
        self._hook = backbone.register_forward_hook(self._keep)

    def last(self) -> Tensor:
        """Of all tokens: shape (sequences, tokens, hidden). Given once."""
        if self._last is None:
            raise RuntimeError("no forward pass was seen")
        last, self._last = self._last, None
        return last

    def forget(self) -> None:
        """Take the hook off the backbone."""
        self._hook.remove()
        self._last = None

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        self._last = output.last_hidden_state.detach()
