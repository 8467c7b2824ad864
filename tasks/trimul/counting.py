"""Counters of what a submission does: torch operations, and launches in Triton's interpreter.

They run in the process of the submission. One rule holds for both: an operation (or launch) moves each byte that it
reads or writes once, however often it does so: caches are perfect within it and empty between two. Views move nothing.
Arithmetic is counted apart for matrix products by their input type, and for everything else together.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
import triton.language as tl
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

_FREE = ("aten.empty", "aten.new_empty", "aten.lift_fresh", "aten._unsafe_view", "aten.set_")
_ARGUMENTS = (torch.Tensor, int, float, str, tl.dtype, type(None))
_ON_HOST = ("aten._local_scalar_dense", "aten.equal")


@dataclass(slots=True)
class Work:
    """The counted work. `moved` is in bytes; the others are floating-point operations."""

    operations: int = 0
    moved: int = 0
    half: int = 0  # matrix products of 16-bit numbers
    tf32: int = 0  # of float32 where TF32 is allowed
    plain: int = 0  # all other arithmetic

    def as_json(self) -> dict[str, int]:
        """Return the counts by name."""
        return asdict(self)


class Counter(TorchDispatchMode):
    """A counter: ``with Counter() as counter: ...``, then ``counter.work``. One may be active at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.work = Work()
        self._handing_over = False  # the interpreter takes a kernel's arguments, or gives them back
        self._launch: dict[tuple[bool, int], dict[bytes, np.ndarray]] | None = None  # (store?, item size) -> addresses

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False without importing PyTorch's compiler, which takes a second: nothing is compiled here."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func)
        if name.startswith(_ON_HOST) and not self._handing_over:
            raise RuntimeError("a tensor's value is read on the host: that cannot be counted")
        result = func(*args, **(kwargs or {}))
        if not self._handing_over and not func.is_view and not name.startswith(_FREE):
            self._operation(name, [*tree_leaves(args), *tree_leaves(kwargs or {})], tree_leaves(result))
        return result

    def _operation(self, name: str, inputs_and_arguments: list[Any], results: list[Any]) -> None:
        read = {id(tensor): tensor for tensor in inputs_and_arguments if isinstance(tensor, torch.Tensor)}
        written = [tensor for tensor in results if isinstance(tensor, torch.Tensor)]
        self.work.operations += 1
        self.work.moved += sum(tensor.numel() * tensor.element_size() for tensor in (*read.values(), *written))
        inputs = list(read.values())
        if name.startswith(("aten.mm", "aten.bmm", "aten.addmm", "aten.baddbmm")):
            self.product(2 * written[0].numel() * inputs[-1].shape[-2], inputs[-1].element_size(), _tf32_allowed())
        else:
            self.work.plain += max((tensor.numel() for tensor in (*inputs, *written)), default=0)

    def product(self, operations: int, item_size: int, tf32: bool) -> None:
        """Count a matrix product."""
        if item_size <= 2:
            self.work.half += operations
        elif tf32:
            self.work.tf32 += operations
        else:
            self.work.plain += operations

    def arithmetic(self, result: np.ndarray) -> None:
        """Count arithmetic on blocks, indices included; scalar work of a whole program is free."""
        if result.size > 1 and result.dtype.kind in "fiu":
            self.work.plain += result.size

    def touch(self, addresses: np.ndarray, mask: np.ndarray, item_size: int, store: bool) -> None:
        """Count the addresses of a block; programs that access the same block share its addresses."""
        if self._launch is not None:
            everywhere, where = np.broadcast_arrays(addresses, mask)
            active = everywhere[where]
            self._launch.setdefault((store, item_size), {}).setdefault(active.tobytes(), active)

    def hand_over(self, body: Callable[[], Any]) -> Any:
        """Run `body` without counting."""
        self._handing_over = True
        try:
            return body()
        finally:
            self._handing_over = False

    def launch(self, body: Callable[[], Any], arguments: Iterable[Any]) -> Any:
        """Run a launch and count its traffic.

        Arguments that are no tensors or plain values could carry state from one program to the next: RuntimeError.
        """
        foreign_types = {type(value).__name__ for value in arguments if not isinstance(value, _ARGUMENTS)}
        if foreign_types:
            raise RuntimeError(f"a kernel takes tensors and plain values, not {', '.join(sorted(foreign_types))}")
        self._launch = {}
        try:
            return body()
        finally:
            touched, self._launch = self._launch, None
            self.work.operations += 1
            for (_, item_size), blocks in touched.items():
                self.work.moved += item_size * np.unique(np.concatenate(list(blocks.values()))).size


def _tf32_allowed() -> bool:
    return torch.get_float32_matmul_precision() != "highest"


def hook_triton(current: Callable[[], Counter | None]) -> None:
    """Make the interpreter report to the counter that `current` returns."""
    from triton.runtime import interpreter

    builder: Any = interpreter.InterpreterBuilder
    load, store, dot = builder.create_masked_load, builder.create_masked_store, builder.create_dot
    binary, unary = builder.binary_op, builder.unary_op
    run, reduce = interpreter.GridExecutor.__call__, interpreter.ReduceOps.apply_impl
    take, give_back = interpreter.GridExecutor._init_args_hst, interpreter.GridExecutor._restore_args_dev

    def counted_load(self: Any, ptrs: Any, mask: Any, *rest: Any) -> Any:
        result = load(self, ptrs, mask, *rest)
        if counter := current():
            counter.touch(ptrs.data, mask.data, result.data.dtype.itemsize, store=False)
        return result

    def counted_store(self: Any, ptrs: Any, value: Any, mask: Any, *rest: Any) -> Any:
        if counter := current():
            counter.touch(ptrs.data, mask.data, value.data.dtype.itemsize, store=True)
        return store(self, ptrs, value, mask, *rest)

    def counted_dot(self: Any, a: Any, b: Any, d: Any, precision: Any, *rest: Any) -> Any:
        if counter := current():
            operations = 2 * math.prod(a.data.shape) * b.data.shape[-1]
            counter.product(operations, a.data.dtype.itemsize, "TF32" in str(precision).upper())
        return dot(self, a, b, d, precision, *rest)

    def counted(original: Any) -> Any:
        def operation(self: Any, *operands: Any) -> Any:
            result = original(self, *operands)
            if counter := current():
                counter.arithmetic(result.data)
            return result

        return operation

    def counted_reduce(self: Any, operand: Any) -> Any:
        if counter := current():
            counter.arithmetic(operand[0].handle.data)
        return reduce(self, operand)

    def counted_run(self: Any, *args: Any, **kwargs: Any) -> Any:
        counter = current()
        if counter is None:
            return run(self, *args, **kwargs)
        return counter.launch(lambda: run(self, *args, **kwargs), (*args, *kwargs.values()))

    def uncounted(original: Any) -> Any:
        def passing(self: Any, *arguments: Any) -> Any:
            counter = current()
            return counter.hand_over(lambda: original(self, *arguments)) if counter else original(self, *arguments)

        return passing

    builder.create_masked_load, builder.create_masked_store, builder.create_dot = (
        counted_load,
        counted_store,
        counted_dot,
    )
    builder.binary_op, builder.unary_op = counted(binary), counted(unary)
    interpreter.GridExecutor.__call__, interpreter.ReduceOps.apply_impl = counted_run, counted_reduce
    interpreter.GridExecutor._init_args_hst = uncounted(take)
    interpreter.GridExecutor._restore_args_dev = uncounted(give_back)
