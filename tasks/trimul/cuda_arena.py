"""The shared block on a GPU: physical memory that the judge allocates and hands to the sandbox as a file descriptor.

CUDA's virtual memory calls (cuMemCreate, cuMemExportToShareableHandle, ...) rather than its older IPC handles: those
need one process namespace for both sides, a descriptor goes through any Unix socket. The judge takes its private copy
of the output the moment the program says that it is done: what is written later changes nothing.
"""

from __future__ import annotations

import ctypes
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arena import Layout, fields

if TYPE_CHECKING:
    import torch

NAME = "arena.sock"
_GLANCES = 4096
_PINNED, _ON_DEVICE, _DESCRIPTOR, _READ_WRITE, _MINIMUM = 1, 1, 1, 3, 0  # of CUDA's enumerations


class CudaError(Exception):
    """A call of the driver failed."""


class _Location(ctypes.Structure):
    _fields_ = (("type", ctypes.c_int), ("id", ctypes.c_int))


class _Properties(ctypes.Structure):  # CUmemAllocationProp
    _fields_ = (
        ("type", ctypes.c_int),
        ("handles", ctypes.c_int),
        ("location", _Location),
        ("win32", ctypes.c_void_p),
        ("flags", ctypes.c_ubyte * 8),
    )


class _Access(ctypes.Structure):  # CUmemAccessDesc
    _fields_ = (("location", _Location), ("flags", ctypes.c_int))


class _Block:
    """Device memory as torch.as_tensor takes it."""

    def __init__(self, address: int, size: int) -> None:
        self.__cuda_array_interface__ = {
            "shape": (size,),
            "typestr": "|u1",
            "data": (address, False),
            "version": 3,
        }


def _call(name: str, *arguments: Any) -> None:
    code = getattr(ctypes.CDLL("libcuda.so.1"), name)(*arguments)
    if code:
        raise CudaError(f"{name} failed with CUDA error {code}")


def _properties() -> _Properties:
    return _Properties(type=_PINNED, handles=_DESCRIPTOR, location=_Location(_ON_DEVICE, 0))


def _rounded(size: int) -> int:
    """Round up to the allocation granularity of the device."""
    import torch

    torch.cuda.init()
    torch.zeros(1, device="cuda")  # makes the context current in this thread
    step = ctypes.c_size_t()
    _call("cuMemGetAllocationGranularity", ctypes.byref(step), ctypes.byref(_properties()), ctypes.c_int(_MINIMUM))
    return -(-size // step.value) * step.value


def _mapped(handle: ctypes.c_ulonglong, size: int) -> int:
    address = ctypes.c_ulonglong()
    none, length = ctypes.c_ulonglong(0), ctypes.c_size_t(size)
    _call("cuMemAddressReserve", ctypes.byref(address), length, ctypes.c_size_t(0), none, none)
    _call("cuMemMap", address, length, ctypes.c_size_t(0), handle, none)
    access = _Access(_Location(_ON_DEVICE, 0), _READ_WRITE)
    _call("cuMemSetAccess", address, length, ctypes.byref(access), ctypes.c_size_t(1))
    return address.value


def _tensor(address: int, size: int) -> torch.Tensor:
    import torch

    return torch.as_tensor(_Block(address, size), device="cuda")


class CudaArena:
    """The judge's side of a block of GPU memory."""

    def __init__(self, work: Path, size: int) -> None:
        import torch

        self._size = _rounded(size)
        self._handle, descriptor = ctypes.c_ulonglong(), ctypes.c_int()
        none, kind = ctypes.c_ulonglong(0), ctypes.c_int(_DESCRIPTOR)
        properties = ctypes.byref(_properties())
        _call("cuMemCreate", ctypes.byref(self._handle), ctypes.c_size_t(self._size), properties, none)
        _call("cuMemExportToShareableHandle", ctypes.byref(descriptor), self._handle, kind, none)
        self._descriptor = descriptor.value
        self._address = _mapped(self._handle, self._size)
        self._block: Any = _tensor(self._address, self._size)
        self._output: Any = None
        self._dice = torch.Generator("cuda")
        self._dice.seed()  # from the operating system: nobody knows where the judge will look
        self._door = socket.socket(socket.AF_UNIX)
        self._door.bind(str(work / NAME))
        self._door.listen(1)
        owner = work.stat()
        if owner.st_uid != os.geteuid():
            os.chown(work / NAME, owner.st_uid, owner.st_gid)

    def offer(self, seconds: float) -> None:
        """Hand the descriptor to the program, which was told to connect. Raises OSError where it does not."""
        self._door.settimeout(seconds)
        visitor, _ = self._door.accept()
        with visitor:
            socket.send_fds(visitor, [b"."], [self._descriptor])

    def put(self, placed: Layout, tensors: dict[str, torch.Tensor]) -> None:
        """Write tensors in their order, in which the one that everything depends on comes last.

        A program that reads the block before the clock starts finds nothing to begin with.
        """
        import torch

        shared = fields(self._block, placed)
        for name, tensor in tensors.items():
            shared[name].copy_(tensor)
        self._output = shared["output"].view(-1)
        self._where = torch.randint(len(self._output), (_GLANCES,), generator=self._dice, device="cuda")
        torch.cuda.synchronize()

    def look(self) -> None:
        """Read a few thousand elements of the output.

        GPUs take turns between processes: unfinished work of the program either delays this read, and the clock runs
        on, or continues after it, and `take` detects the change.
        """
        import torch

        self._glance = self._output[self._where]
        torch.cuda.synchronize()

    def take(self, placed: Layout) -> torch.Tensor | None:
        """Return a private copy of the output; None where it has changed since `look`.

        Copying takes a while, in which work that was reported as done could be finished.
        """
        import torch

        copy = fields(self._block, placed)["output"].clone()
        same = torch.equal(self._glance.view(torch.int32), copy.view(-1)[self._where].view(torch.int32))
        return copy if same else None

    def close(self) -> None:
        """Unmap the memory and close the socket and the descriptor."""
        self._block = self._output = None  # nobody may look into memory that is unmapped
        self._door.close()
        os.close(self._descriptor)
        length, address = ctypes.c_size_t(self._size), ctypes.c_ulonglong(self._address)
        _call("cuMemUnmap", address, length)
        _call("cuMemAddressFree", address, length)
        _call("cuMemRelease", self._handle)


def block(work: Path, size: int) -> torch.Tensor:
    """Map the block on the program's side; `size` is the judge's."""
    size = _rounded(size)
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(work / NAME))
        _, [descriptor], _, _ = socket.recv_fds(connection, 1, 1)
    handle, kind = ctypes.c_ulonglong(), ctypes.c_int(_DESCRIPTOR)
    _call("cuMemImportFromShareableHandle", ctypes.byref(handle), ctypes.c_void_p(descriptor), kind)
    os.close(descriptor)
    return _tensor(_mapped(handle, size), size)
