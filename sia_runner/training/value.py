"""The critic's value head: a linear read-out of the policy's own hidden states."""

from typing import Any

from torch import Tensor, nn


class ValueHead(nn.Linear):
    """The critic's linear head on the last hidden state: (..., hidden) -> (...). It starts at zero.

    It reads detached states, so that an inaccurate critic cannot move the policy, and one copy of the weights serves
    both (a separate value model, as in Ouyang et al. 2022, would be a second copy).
    """

    def __init__(self, hidden: int) -> None:
        super().__init__(hidden, 1)
        nn.init.zeros_(self.weight)
        nn.init.zeros_(self.bias)

    def forward(self, input: Tensor) -> Tensor:
        """Return the values of hidden states."""
        return super().forward(input.detach().to(self.weight.dtype)).squeeze(-1)


class HiddenStates:
    """A hook that remembers a backbone's last output, so that values need no forward pass of their own."""

    def __init__(self, backbone: nn.Module) -> None:
        self._last: Tensor | None = None
        self._hook = backbone.register_forward_hook(self._keep)

    def last(self) -> Tensor:
        """Return, once, the last hidden states of all tokens: shape (sequences, tokens, hidden)."""
        if self._last is None:
            raise RuntimeError("no forward pass since the last call")
        last, self._last = self._last, None
        return last

    def forget(self) -> None:
        """Take the hook off the backbone."""
        self._hook.remove()
        self._last = None

    def _keep(self, module: nn.Module, args: Any, output: Any) -> None:
        self._last = output.last_hidden_state.detach()
