"""Narrow types in onnxruntime: bfloat16 and float8 in bytes, and 8-bit products that are right.

numpy has no bfloat16 or float8 of its own; `ml_dtypes` gives it these types, and onnxruntime's
plain `run` refuses them.
"""

import ctypes
import platform
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from onnxruntime import InferenceSession, OrtValue

EXACT_INT8 = ("session.x64quantprecision", "1")
"""Without it, 8-bit products saturate on x86 processors that lack VNNI: a quantized network loses
its accuracy, and a half computes something else than the whole does. Slower there, and right; with
VNNI it costs half the speed for nothing, so what runs a bundle asks for it only where `saturates`.
"""

_VNNI = {"avx512_vnni", "avx_vnni"}
_CPU = Path("/proc/cpuinfo")


@cache
def saturates() -> bool:
    """Tell whether 8-bit products may saturate here: on x86 unless the processor shows VNNI."""
    if platform.machine().lower() not in ("x86_64", "amd64", "i686"):
        return False
    try:
        flags = next(line for line in _CPU.read_text().splitlines() if line.startswith("flags"))
    except (OSError, StopIteration):
        return True
    return not _VNNI & {*flags.split()}


# onnxruntime's name → (ml_dtypes', ONNX's number)
_NARROW = {
    "tensor(bfloat16)": ("bfloat16", 16),
    "tensor(float8e4m3fn)": ("float8_e4m3fn", 17),
    "tensor(float8e4m3fnuz)": ("float8_e4m3fnuz", 18),
    "tensor(float8e5m2)": ("float8_e5m2", 19),
    "tensor(float8e5m2fnuz)": ("float8_e5m2fnuz", 20),
}


def run(
    session: "InferenceSession", names: Sequence[str], feeds: Mapping[str, NDArray[Any]]
) -> list[Any]:
    """Return the named outputs; `feeds` holds an array for each input of the session."""
    ends = (*session.get_inputs(), *session.get_outputs())
    if not any(end.type in _NARROW for end in ends):
        plain = {i.name: feeds[i.name] for i in session.get_inputs()}
        return list(session.run(list(names), plain))
    given = {i.name: _to_value(feeds[i.name], i.type) for i in session.get_inputs()}
    return [_from_value(value) for value in session.run_with_ort_values(list(names), given)]


def _to_value(array: NDArray[Any], kind: str) -> "OrtValue":
    from onnxruntime import OrtValue

    if kind not in _NARROW:
        return OrtValue.ortvalue_from_numpy(array)
    plain = np.ascontiguousarray(array).view(f"u{array.itemsize}")
    return OrtValue.ortvalue_from_numpy_with_onnx_type(plain, _NARROW[kind][1])


def _from_value(value: "OrtValue") -> NDArray[Any]:
    if value.data_type() not in _NARROW:
        array: NDArray[Any] = value.numpy()
        return array
    import ml_dtypes

    dtype = np.dtype(getattr(ml_dtypes, _NARROW[value.data_type()][0]))
    count = int(np.prod(value.shape())) * dtype.itemsize
    data = ctypes.string_at(value.data_ptr(), count) if count else b""
    return np.frombuffer(data, dtype).reshape(value.shape()).copy()
