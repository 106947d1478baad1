"""CUDA's driver interface, as much as finding a GPU and moving arrays takes.

Uses ``libcuda`` through ctypes: it comes with NVIDIA's driver, so nothing has to be installed.
Functions and constants: CUDA driver API reference manual.
"""

import ctypes
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

from numpy.typing import NDArray

from splitc.errors import BackendError

LIBRARY = "nvcuda.dll" if sys.platform == "win32" else "libcuda.so.1"
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR, _MINOR


@dataclass(frozen=True)
class Gpu:
    """A GPU as the driver describes it; `driver`: the CUDA version that it serves, "13.0"."""

    name: str
    compute_capability: str
    driver: str
    memory_bytes: int


class Machine(Protocol):
    """Where an engine is built and run."""

    def gpu(self) -> Gpu | str:
        """Return the first GPU, or why there is none."""
        ...

    def building_for(self, capability: str) -> str:
        """Return what to order of the builder: "80", or '' for the GPU that is here."""
        ...


class Driver:
    """The machine that this runs on, asked through NVIDIA's driver."""

    def gpu(self) -> Gpu | str:
        """Return the first GPU that the driver shows, or why there is none."""
        return _first_gpu()

    def building_for(self, capability: str) -> str:
        """Return '': a builder without orders builds for the GPU that is here."""
        del capability
        return ""


@cache
def _first_gpu() -> Gpu | str:
    try:
        cuda = _library()
    except OSError:
        return f"no NVIDIA driver ({LIBRARY} is not here)"
    if code := cuda.cuInit(0):
        return f"NVIDIA's driver finds no GPU (cuInit: {code})"
    device, version, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name = ctypes.create_string_buffer(256)
    _check("cuDeviceGet", cuda.cuDeviceGet(ctypes.byref(device), 0))
    _check("cuDeviceGetName", cuda.cuDeviceGetName(name, len(name), device))
    _check("cuDriverGetVersion", cuda.cuDriverGetVersion(ctypes.byref(version)))
    _check("cuDeviceTotalMem", cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), device))
    parts = []
    for attribute in (_MAJOR, _MINOR):
        value = ctypes.c_int()
        code = cuda.cuDeviceGetAttribute(ctypes.byref(value), attribute, device)
        _check("cuDeviceGetAttribute", code)
        parts.append(str(value.value))
    served = f"{version.value // 1000}.{version.value % 1000 // 10}"
    return Gpu(name.value.decode(), ".".join(parts), served, memory.value)


@cache
def _library() -> Any:
    return ctypes.CDLL(LIBRARY)


def _check(what: str, code: int) -> None:
    if code:
        raise BackendError(f"CUDA: {what} failed with error {code}")


class Stream:
    """A queue of work on the first GPU, in its primary context."""

    def __init__(self) -> None:
        self._cuda = _library()
        context, stream = ctypes.c_void_p(), ctypes.c_void_p()
        self._call("cuInit", 0)
        self._call("cuDevicePrimaryCtxRetain", ctypes.byref(context), 0)
        self._context = context
        self.enter()
        self._call("cuStreamCreate", ctypes.byref(stream), 0)
        self.handle = int(stream.value or 0)

    def enter(self) -> None:
        """Make the GPU current in this thread; to be done before any other work in it."""
        self._call("cuCtxSetCurrent", self._context)

    def upload(self, array: NDArray[Any]) -> "Memory":
        """Copy a C-contiguous array to the GPU."""
        memory = Memory(self._call, max(array.nbytes, 1))
        if array.nbytes:
            pointer = ctypes.c_void_p(array.ctypes.data)
            self._call("cuMemcpyHtoD_v2", memory.pointer, pointer, ctypes.c_size_t(array.nbytes))
        return memory

    def room(self, size: int) -> "Memory":
        """Take memory of `size` bytes on the GPU."""
        return Memory(self._call, max(size, 1))

    def download(self, memory: "Memory", array: NDArray[Any]) -> None:
        """Copy from the GPU into an array, in place."""
        if array.nbytes:
            pointer = ctypes.c_void_p(array.ctypes.data)
            self._call("cuMemcpyDtoH_v2", pointer, memory.pointer, ctypes.c_size_t(array.nbytes))

    def wait(self) -> None:
        """Wait for all work of the queue."""
        self._call("cuStreamSynchronize", ctypes.c_void_p(self.handle))

    def _call(self, what: str, *arguments: object) -> None:
        _check(what, getattr(self._cuda, what)(*arguments))


class Memory:
    """Memory on the GPU, given back when nobody holds it."""

    def __init__(self, call: Callable[..., None], size: int) -> None:
        self._call = call
        self.pointer = ctypes.c_uint64()  # CUdeviceptr
        call("cuMemAlloc_v2", ctypes.byref(self.pointer), ctypes.c_size_t(size))

    def __del__(self) -> None:
        if self.pointer.value:
            self._call("cuMemFree_v2", self.pointer)
