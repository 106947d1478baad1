"""The self-test of a bundle: recorded inputs, boundary tensors and expected outputs.

Each is one ``.npz``: stored without compression or timestamps, so that the same arrays give the
same bytes, and read without pickle and without believing a size that the file does not have. The
entry of tensor `t` in sample `i` is called ``<i>/<t>``; bfloat16 and float8 are kept as unsigned
integers of their width, because ``.npy`` has no name for them.
"""

import io
import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from splitc.errors import RequestError, VerifyError, did_you_mean

if TYPE_CHECKING:
    from splitc.model import Model
    from splitc.records import TensorRecord

FOLDER = "selftest"
SAMPLES = 4
MAX_BYTES = 256 * 2**20
"""Above this size of all its arrays together a self-test makes do with two samples."""

Sample = Mapping[str, NDArray[Any]]

_DAMAGE = (
    *(zipfile.BadZipFile, zlib.error, OSError, EOFError, NotImplementedError, RuntimeError),
    *(ValueError, TypeError, OverflowError, SyntaxError, tokenize.TokenError, MemoryError),
)
"""What zipfile and numpy raise over a damaged archive, an encrypted one, and a header that is no
literal."""


def record(
    model: "Model", boundary: Sequence[str], seed: int = 0, *, optimize: bool = True
) -> tuple[list[Sample], list[Sample], list[Sample]]:
    """Run the whole of `model`; return (inputs, boundary tensors, outputs), one of each a sample.

    Inputs are drawn by the rules of `splitc.feeds`; `boundary` names tensors of the graph.
    `optimize`: let onnxruntime fuse operators, which in quantized graphs moves roundings.
    """
    from splitc.execute import run, session
    from splitc.feeds import draw_samples

    outputs = [tensor.name for tensor in model.outputs]
    made = [name for name in boundary if name not in model.graph.inputs]
    facts = model.facts
    names = {*model.graph.inputs, *boundary, *outputs}
    size = sum(facts[name].nbytes for name in names if name in facts)
    inputs = draw_samples(model, SAMPLES if SAMPLES * size <= MAX_BYTES else 2, seed)
    wanted = list(dict.fromkeys([*outputs, *made]))
    opened = session(model, outputs=made, optimize=optimize)
    results = [{**feeds, **run(opened, feeds, wanted, model.source)} for feeds in inputs]
    return (
        list(inputs),
        [{name: result[name] for name in boundary} for result in results],
        [{name: result[name] for name in outputs} for result in results],
    )


def write(path: Path, samples: Sequence[Sample]) -> None:
    """Write one sample after the other; names are sorted within each."""
    save(path, {f"{i}/{name}": s[name] for i, s in enumerate(samples) for name in sorted(s)})


def save(path: Path, arrays: Sample) -> None:
    """Write an ``.npz`` of these arrays under their names: the same arrays, the same bytes."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            entry = zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            archive.writestr(entry, _npy(np.asarray(array)))


def read(path: Path, count: int, dtypes: Mapping[str, str]) -> list[dict[str, NDArray[Any]]]:
    """Read `count` samples of the tensors in `dtypes` (name → dtype).

    Raises `VerifyError` naming the tensor that is missing or of another type.
    """
    arrays = load(path, packed=False)
    return [
        {name: _typed(arrays, f"{index}/{name}", dtype, path) for name, dtype in dtypes.items()}
        for index in range(count)
    ]


def load(path: Path, *, packed: bool = True) -> dict[str, NDArray[Any]]:
    """Read the arrays of any ``.npz`` by name, without pickle; `VerifyError` if it is damaged.

    Unless `packed`, compressed entries are refused: then nothing can be larger than its file.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if not packed and any(entry.compress_type for entry in archive.infolist()):
                raise ValueError("an entry is compressed")
            return dict(_entries(archive))
    except _DAMAGE as error:
        text = str(error) or type(error).__name__
        raise VerifyError(f"cannot read the arrays: {text:.200}", where=path.name) from error


def given(data: Path) -> dict[str, NDArray[Any]]:
    """Read a user's ``.npz``; `RequestError` if it is damaged or no ``.npz``."""
    try:
        return load(data)
    except VerifyError as error:
        hint = "numpy.savez(FILE, input_name=array, …) writes such a file"
        raise RequestError(str(error.args[0]), where=str(data), hint=hint) from error


def samples(data: Path, inputs: Sequence["TensorRecord"]) -> list[Sample]:
    """Read ``--data``: one array for each input, samples along the first axis.

    Where an input's own first size is fixed at 1, or is symbolic, every sample has size 1 there;
    otherwise the first axis is cut into pieces of that size. An input without axes is shared, or
    is given with one value a sample.
    """
    arrays = given(data)
    for tensor in inputs:
        if tensor.name not in arrays:
            hint = did_you_mean(tensor.name, arrays)
            raise RequestError(f"--data has no array {tensor.name!r}", where=str(data), hint=hint)
    pieces = {t.name: _pieces(arrays[t.name], t.shape) for t in inputs}
    count = max((len(piece) for piece in pieces.values()), default=0)
    if odd := [name for name, piece in pieces.items() if len(piece) not in (1, count)]:
        raise RequestError(
            f"--data has {len(pieces[odd[0]])} samples of {odd[0]!r}, {count} of others",
            where=str(data),
        )
    return [
        {name: piece[index if len(piece) > 1 else 0] for name, piece in pieces.items()}
        for index in range(count)
    ]


def _pieces(array: NDArray[Any], shape: Sequence[int | str | None]) -> list[NDArray[Any]]:
    """Cut an array into samples of the input's shape."""
    if array.ndim == len(shape) and array.ndim:
        step = shape[0] if isinstance(shape[0], int) and shape[0] else 1
        return [array[at : at + step] for at in range(0, len(array), step)]
    return list(array) if array.ndim == len(shape) + 1 else [array]


def _entries(archive: zipfile.ZipFile) -> Iterable[tuple[str, NDArray[Any]]]:
    for entry in archive.infolist():
        if not entry.filename.endswith(".npy"):
            raise ValueError(f"{entry.filename!r} is no array")
        yield entry.filename.removesuffix(".npy"), _array(entry.filename, archive.read(entry))


def _array(name: str, data: bytes) -> NDArray[Any]:
    """Read one ``.npy`` whose header must agree with the bytes that are there."""
    stream = io.BytesIO(data)
    headers = {(1, 0): npy.read_array_header_1_0, (2, 0): npy.read_array_header_2_0}
    version = npy.read_magic(stream)
    if version not in headers:
        raise ValueError(f"{name!r} has .npy version {version}")
    shape, fortran, dtype = headers[version](stream)
    size = dtype.itemsize
    for dim in shape:
        size *= dim
    if dtype.hasobject or size != len(data) - stream.tell():
        raise ValueError(f"{name!r} does not hold what its header says")
    flat = np.frombuffer(data, dtype, offset=stream.tell()) if size else np.empty(0, dtype)
    return flat.reshape(shape, order="F" if fortran else "C").copy(order="C")


def _npy(array: NDArray[Any]) -> bytes:
    stream = io.BytesIO()
    plain = array.view(f"u{array.itemsize}") if _narrow(array.dtype.name) else array
    little = plain.astype(plain.dtype.newbyteorder("<"), copy=False)
    shaped = np.ascontiguousarray(little).reshape(array.shape)
    npy.write_array(stream, shaped, version=(1, 0), allow_pickle=False)
    return stream.getvalue()


def _narrow(dtype: str) -> bool:
    """Tell whether numpy knows a type only through ml_dtypes."""
    return dtype.startswith(("bfloat", "float8"))


def _typed(arrays: Mapping[str, NDArray[Any]], key: str, dtype: str, path: Path) -> NDArray[Any]:
    if key not in arrays:
        raise VerifyError(f"the self-test lacks {key!r}", where=path.name)
    array = arrays[key]
    if _narrow(dtype) and array.dtype.kind == "u":
        from splitc.wire.codec import numpy_dtype

        return array.view(numpy_dtype(dtype))
    if array.dtype.name != dtype:
        raise VerifyError(
            f"the self-test's {key!r} is {array.dtype.name}, expected {dtype}", where=path.name
        )
    return array
