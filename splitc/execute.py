"""Run a model in onnxruntime for our own purposes: shapes, comparison, sample tensors.

Large weights never take a second copy in memory: onnxruntime maps them where they lie, or from a
temporary file.
"""

import re
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from splitc import narrow
from splitc.errors import ModelError
from splitc.model import Model

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

_INLINE_BELOW = 16 * 2**20
_FOLDER = "session.model_external_initializers_file_folder_path"


def session(
    model: Model,
    *,
    threads: int = 1,
    optimize: bool = True,
    outputs: Sequence[str] | None = None,
) -> "InferenceSession":
    """Open an onnxruntime session on the CPU; `outputs` become graph outputs too."""
    wanted = model.with_outputs(outputs) if outputs else model
    inline, folders = _where_weights_lie(wanted.ir)
    if inline < _INLINE_BELOW and len(folders) <= 1:
        source = ir.to_proto(wanted.ir).SerializeToString()
        return _open(source, model.source, threads, optimize, *folders)
    with tempfile.TemporaryDirectory(prefix="splitc-") as folder:
        path = Path(folder) / "model.onnx"
        ir.save(wanted.ir, path, external_data="model.data")
        return _open(str(path), model.source, threads, optimize)


def _where_weights_lie(model: ir.Model) -> tuple[int, set[str]]:
    """Return (bytes of weights in memory, folders of those that lie in files)."""
    tensors = [
        v.const_value for v in model.graph.initializers.values() if v.const_value is not None
    ]
    files = [t for t in tensors if isinstance(t, ir.ExternalTensor)]
    inline = sum(t.nbytes for t in tensors if not isinstance(t, ir.ExternalTensor))
    return inline, {str(tensor.base_dir) for tensor in files}


def _open(
    source: bytes | str, name: str, threads: int, optimize: bool, folder: str = ""
) -> "InferenceSession":
    """`folder`: where external data lies that `source` (bytes) refers to."""
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.add_session_config_entry(*narrow.EXACT_INT8)
    if folder:
        options.add_session_config_entry(_FOLDER, folder)
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except _failures() as error:
        raise ModelError(
            f"onnxruntime cannot open the model: {_plain(error)}", where=name
        ) from error


def _failures() -> tuple[type[Exception], ...]:
    """Return what onnxruntime raises for a graph or inputs that it cannot take."""
    from onnxruntime.capi import onnxruntime_pybind11_state as errors

    kinds = (errors.Fail, errors.InvalidArgument, errors.InvalidGraph, errors.InvalidProtobuf)
    more = (errors.NotImplemented, errors.RuntimeException, errors.EPFail)
    return (*kinds, *more, RuntimeError, ValueError)


def _plain(error: Exception) -> str:
    """Return onnxruntime's message on one line, without its own source paths and markers."""
    text = " ".join(str(error).split())
    text = re.sub(r"\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
    text = re.sub(r"Load model from \S+ failed:", "", text)
    text = re.sub(r"(?:Exception during initialization: )?/onnxruntime_src/\S+ .*?\) ", "", text)
    return text[:500]


def evaluate(
    model: Model,
    feeds: Mapping[str, NDArray[Any]],
    outputs: Sequence[str] | None = None,
    *,
    threads: int = 1,
    optimize: bool = True,
) -> dict[str, NDArray[Any]]:
    """Run `model` on `feeds`; return the named tensors (the graph outputs if None)."""
    opened = session(model, threads=threads, optimize=optimize, outputs=outputs)
    names = list(outputs) if outputs is not None else [o.name for o in opened.get_outputs()]
    return run(opened, feeds, names, model.source)


def run(
    opened: "InferenceSession", feeds: Mapping[str, NDArray[Any]], names: Sequence[str], where: str
) -> dict[str, NDArray[Any]]:
    """Run an open session; an onnxruntime failure becomes a `ModelError`."""
    given = {i.name: np.asarray(feeds[i.name]) for i in opened.get_inputs()}
    try:
        return dict(zip(names, narrow.run(opened, names, given), strict=True))
    except _failures() as error:
        text = _plain(error)
        raise ModelError(
            f"onnxruntime cannot run the model: {text}", where=where, hint=_blame(text, given)
        ) from error


def _blame(text: str, feeds: Mapping[str, NDArray[Any]]) -> str:
    """Name the integer inputs that may be what an index or a size went wrong over."""
    if not re.search(
        r"bound|indices|index|out of range|reshape|dimension|size", text, re.IGNORECASE
    ):
        return ""
    whole = [
        f"{name!r} from {array.min()} to {array.max()}"
        for name, array in feeds.items()
        if np.issubdtype(array.dtype, np.integer) and array.size
    ]
    return f"integer inputs were {', '.join(whole)}; the network may want others" if whole else ""
