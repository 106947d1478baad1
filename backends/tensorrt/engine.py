"""Run an engine of TensorRT or TensorRT-RTX on the GPU. Needs one: see `docs/tensorrt.md`.

The only file that imports TensorRT into this process; nobody gets here without a driver, because
`Runtime` crashes where there is none.
"""

import importlib
from typing import Any, cast

import numpy as np
from numpy.typing import NDArray

from splitc.backend import Feeds
from splitc.backends.tensorrt import api
from splitc.backends.tensorrt.child import Flavour
from splitc.backends.tensorrt.cuda import Memory, Stream
from splitc.errors import BackendError


class Engine:
    """A session on an engine's bytes: feeds → outputs by name, one call at a time."""

    def __init__(self, plan: bytes, flavour: Flavour) -> None:
        self._trt = cast("api.TensorRT", importlib.import_module(flavour.module()))
        self._stream = Stream()
        self._said: list[str] = []
        self._runtime = self._trt.Runtime(_logger(self._trt, self._said))
        engine = self._runtime.deserialize_cuda_engine(plan)
        if engine is None:
            why = self._said[-1] if self._said else "made by another version, or for another GPU"
            raise BackendError(f"{flavour.name} refuses the engine: {why}")
        self._engine = engine
        self._context = engine.create_execution_context()
        self._names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        mode = self._trt.TensorIOMode
        self._inputs = [n for n in self._names if engine.get_tensor_mode(n) == mode.INPUT]
        self._outputs = [n for n in self._names if n not in self._inputs]

    def __call__(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Run on all of the inputs; sizes outside the profile are a `BackendError`."""
        self._stream.enter()
        held: list[object] = [self._give(name, feeds[name]) for name in self._inputs]
        if unknown := self._context.infer_shapes():
            raise BackendError(f"sizes are unknown after all inputs are set: {', '.join(unknown)}")
        made = {name: self._room(name) for name in self._outputs}
        if not self._context.execute_async_v3(self._stream.handle):
            raise BackendError(
                f"the engine failed: {self._said[-1] if self._said else 'no reason'}"
            )
        self._stream.wait()
        del held  # inputs must live until here
        for array, memory in made.values():
            if memory is not None:
                self._stream.download(memory, array)
        return {name: array for name, (array, _) in made.items()}

    def _give(self, name: str, array: NDArray[Any]) -> object:
        """Set an input; returns what must live until the run is over."""
        given = np.ascontiguousarray(array, self._dtype(name)).reshape(array.shape)
        if not self._context.set_input_shape(name, given.shape):
            raise BackendError(
                f"input {name!r} of shape {list(given.shape)} is outside the engine's profile",
                hint="compile again with --input MIN..BEST..MAX",
            )
        if self._on_host(name):
            self._context.set_tensor_address(name, given.ctypes.data)
            return given
        memory = self._stream.upload(given)
        self._context.set_tensor_address(name, memory.pointer.value)
        return memory

    def _room(self, name: str) -> tuple[NDArray[Any], Memory | None]:
        shape = tuple(self._context.get_tensor_shape(name))
        if -1 in shape:
            raise BackendError(f"the size of output {name!r} depends on the data")
        array = np.empty(shape, self._dtype(name))
        if self._on_host(name):
            self._context.set_tensor_address(name, array.ctypes.data)
            return array, None
        memory = self._stream.room(array.nbytes)
        self._context.set_tensor_address(name, memory.pointer.value)
        return array, memory

    def _on_host(self, name: str) -> bool:
        where = self._engine.get_tensor_location(name)
        return bool(where == self._trt.TensorLocation.HOST)

    def _dtype(self, name: str) -> np.dtype[Any]:
        return dtype(str(self._engine.get_tensor_dtype(name)))


_SPECIAL = {"FLOAT": "float32", "HALF": "float16", "BOOL": "bool"}


def dtype(name: str) -> np.dtype[Any]:
    """Return numpy's type for "DataType.FLOAT" and its kind; bfloat16 through ml_dtypes."""
    plain = name.rpartition(".")[2]
    if plain == "BF16":
        import ml_dtypes

        narrow: np.dtype[Any] = np.dtype(ml_dtypes.bfloat16)
        return narrow
    known: np.dtype[Any] = np.dtype(_SPECIAL.get(plain, plain.lower()))
    return known


def _logger(trt: api.TensorRT, said: list[str]) -> Any:
    class Logger(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, text: str) -> None:
            if int(severity) <= 1:
                said.append(text)

    return Logger()
