"""Samples of a network's inputs, labelled or not: from an archive, an image folder, or drawn.

The first axis counts samples. An array has either its input's own rank, the first axis being the
batch; or one axis more, each sample being the whole input: so for a scalar, for a state whose
first axis is no batch, for any input whose size in front is fixed. Such data are fed sample by
sample, as are those of a network whose batch is fixed at 1.
"""

import csv
import hashlib
import zipfile
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitc.errors import RequestError, did_you_mean
from splitc.feeds import draw_samples
from splitc.importing import call, function, importable
from splitc.model import Model, TensorInfo, dtype_of

LABELS = "label"
_ROWS = 64
"""Samples that are hashed at once: an array that is not contiguous is copied by so many."""
_PREPROCESS = (
    "a preprocess function takes a path; it returns one sample: an array, or input → array"
)
_SPELLING = "name a preprocess function as pkg.mod:fn"


@dataclass(frozen=True, eq=False)
class Dataset:
    """Arrays of one length under the names of a network's inputs, and their labels, if any.

    `source` is a file's name, for messages and the manifest. `drawn` says that these are random
    numbers and no data: whoever uses them says so. Equal are those of equal `digest`.
    """

    inputs: Mapping[str, NDArray[Any]] = field(repr=False)
    labels: NDArray[Any] | None = field(default=None, repr=False)
    source: str = ""
    drawn: bool = False

    def __post_init__(self) -> None:
        lengths = {name: _length(name, array, self.source) for name, array in self._all()}
        if not self.inputs or min(lengths.values()) == 0:
            raise RequestError("the data hold no sample", where=self.source)
        if len(set(lengths.values())) > 1:
            shown = ", ".join(f"{name!r} {count}" for name, count in lengths.items())
            hint = "the first axis of every array counts samples"
            raise RequestError(f"numbers of samples differ: {shown}", where=self.source, hint=hint)

    def __len__(self) -> int:
        return len(next(iter(self.inputs.values())))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Dataset) and self.digest == other.digest

    def __hash__(self) -> int:
        return hash(self.digest)

    @cached_property
    def digest(self) -> str:
        """SHA-256 (hex) over names, types, shapes and bytes; what `source` is does not count."""
        total = hashlib.sha256()
        for name, array in sorted(self._all(), key=lambda item: item[0]):
            total.update(f"{name!r} {array.dtype.str} {array.shape} ".encode())
            for start in range(0, len(array), _ROWS):
                rows = np.ascontiguousarray(array[start : start + _ROWS])
                total.update(rows.reshape(-1).view(np.uint8).data)
        return total.hexdigest()

    def take(self, where: slice | NDArray[Any] | Sequence[int]) -> "Dataset":
        """Return the samples at `where`: a slice shares memory, an index array copies."""
        at = where if isinstance(where, slice) else np.asarray(where)
        labels = None if self.labels is None else self.labels[at]
        return Dataset({n: a[at] for n, a in self.inputs.items()}, labels, self.source, self.drawn)

    def halves(self, seed: int = 0) -> tuple["Dataset", "Dataset"]:
        """Return two disjoint halves, (to tune on, to gate on), of a seeded shuffle.

        An odd sample goes to the first. `RequestError` for a single sample.
        """
        if len(self) < 2:
            raise RequestError("one sample cannot be halved", where=self.source)
        order = np.random.default_rng(seed).permutation(len(self))
        middle = (len(self) + 1) // 2
        return self.take(np.sort(order[:middle])), self.take(np.sort(order[middle:]))

    def feeds(self, model: Model, batch: int = 64) -> Iterator[dict[str, NDArray[Any]]]:
        """Yield the samples in order as inputs of `model`, `batch` at a time where it lets us.

        A network with a fixed batch gets that many; if they do not come out even, the last feed
        is filled up from the first samples: only as many results as there are samples count.
        Raises `RequestError` for an input of `model` without an array, or of another rank.
        """
        infos = {info.name: info for info in model.inputs}
        arrays = {name: _given(self, info) for name, info in infos.items()}
        whole = {n for n, array in arrays.items() if array.ndim == len(infos[n].shape) + 1}
        size = 1 if whole else fixed_batch(model) or batch
        filled = bool(fixed_batch(model))
        for start in range(0, len(self), size):
            at = np.arange(start, start + size) % len(self)
            rows = at if filled and start + size > len(self) else slice(start, start + size)
            yield {n: np.asarray(a[start]) if n in whole else a[rows] for n, a in arrays.items()}

    def _all(self) -> list[tuple[str, NDArray[Any]]]:
        labels = [] if self.labels is None else [("(labels)", self.labels)]
        return [*self.inputs.items(), *labels]


def _length(name: str, array: NDArray[Any], where: str) -> int:
    if array.ndim == 0:
        hint = "the first axis of every array counts samples"
        raise RequestError(f"{name!r} is one number, not samples", where=where, hint=hint)
    return len(array)


def _given(data: Dataset, info: TensorInfo) -> NDArray[Any]:
    if info.name not in data.inputs:
        hint = did_you_mean(info.name, data.inputs)
        raise RequestError(f"the data have no input {info.name!r}", where=data.source, hint=hint)
    array = data.inputs[info.name]
    if array.ndim - len(info.shape) not in (0, 1):
        found = f"the data for {info.name!r} have the shape {list(array.shape)}"
        raise RequestError(f"{found}, the input is {_wanted(info)}", where=data.source)
    return array


def fixed_batch(model: Model) -> int | None:
    """Return the one batch size that a network takes: None where its batch is symbolic.

    An input with a symbolic size in front makes the batch symbolic, for those inputs; else the
    batch is the size in front of the first input that has any axis.
    """
    front = [info.shape[0] for info in model.inputs if info.shape]
    if not front:
        return 1
    return None if any(isinstance(size, str) for size in front) else int(front[0])


def _along(model: Model) -> set[str]:
    """Return the inputs whose own first axis may count samples; a batch above 1: all, or none."""
    batch = fixed_batch(model)
    found = {i.name for i in model.inputs if i.shape and _is_batch(i.shape[0], batch)}
    return found if (batch or 1) == 1 or len(found) == len(model.inputs) else set()


def _is_batch(size: int | str, batch: int | None) -> bool:
    return isinstance(size, str) if batch is None else size == batch


def load(path: str | Path, model: Model, preprocess: str | None = None) -> Dataset:
    """Read samples for `model` from an `.npz`, or from an image folder with ``labels.csv``.

    `.npz`: one array per input under the input's name, labels (if any) under ``label``. Folder:
    ``labels.csv`` has the columns ``file`` and, if there are labels, ``label``; `preprocess`
    names the user's function ``pkg.mod:fn``, which RUNS that code. Types are cast where nothing
    is lost: integers and booleans wherever their values fit, also into floats that hold them
    exactly; floats to floats, rounded. Raises `RequestError` for all that does not fit.
    """
    path = Path(path)
    if path.is_dir():
        arrays, labels = _folder(path, model, preprocess)
    elif preprocess is not None:
        hint = "--preprocess reads the files of an image folder"
        raise RequestError("an archive needs no preprocess function", where=str(path), hint=hint)
    else:
        arrays, labels = _archive(path, model)
    infos = {info.name: info for info in model.inputs}
    _check_names(arrays, infos, path.name, () if path.is_dir() else (LABELS,))
    along = _along(model)
    fitted = {n: _fitted(arrays[n], infos[n], n in along, path.name) for n in infos}
    return Dataset(fitted, labels, path.name)


def _archive(path: Path, model: Model) -> tuple[dict[str, NDArray[Any]], NDArray[Any] | None]:
    names = {info.name for info in model.inputs}
    arrays = _unpacked(path)
    labels = None if LABELS in names else arrays.pop(LABELS, None)
    return arrays, labels


def _unpacked(path: Path) -> dict[str, NDArray[Any]]:
    hint = "numpy.savez(file, **{input name: samples, 'label': labels}), or an image folder"
    try:
        with np.load(path, allow_pickle=False) as archive:
            if isinstance(archive, np.ndarray):
                raise RequestError("this is one array without a name", where=str(path), hint=hint)
            return {name: archive[name] for name in archive.files}
    except FileNotFoundError as error:
        raise RequestError(f"there is no file {path.name!r}", where=str(path)) from error
    except _DAMAGE as error:
        text = " ".join(str(error).split())[:200]
        if isinstance(error, ValueError) and not zipfile.is_zipfile(path):
            text = "this is no .npz archive"
        raise RequestError(f"cannot read the data: {text}", where=str(path), hint=hint) from error


_DAMAGE = (
    *(OSError, EOFError, ValueError, KeyError, TypeError, MemoryError, OverflowError),
    *(zipfile.BadZipFile, zlib.error, NotImplementedError, RuntimeError, AttributeError),
)
"""What numpy and zipfile raise over archives that are cut off, altered or made up."""


def _folder(
    path: Path, model: Model, preprocess: str | None
) -> tuple[dict[str, NDArray[Any]], NDArray[Any] | None]:
    if preprocess is None:
        hint = "--preprocess pkg.mod:fn; fn(path) returns one sample without a batch axis"
        raise RequestError(
            "an image folder needs a preprocess function", where=str(path), hint=hint
        )
    rows = _rows(path / "labels.csv")
    names = [info.name for info in model.inputs]
    with importable():
        made = function(preprocess, shape=_PREPROCESS, spelling=_SPELLING)
    arrays: dict[str, NDArray[Any]] = {}
    for place, row in enumerate(rows):
        file = _inside(path, row["file"])
        result = call(made, file, what=f"{preprocess!r}", where=row["file"])
        for name, array in _sample(result, names, row["file"]).items():
            if name not in arrays:
                arrays[name] = np.empty((len(rows), *array.shape), array.dtype)
            _put(arrays[name], place, array, name, row["file"])
    return arrays, _labels([row[LABELS] for row in rows]) if LABELS in rows[0] else None


def _rows(path: Path) -> list[dict[str, str]]:
    hint = "its first line reads file,label; each further line is one sample"
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            rows = list(csv.DictReader(file, strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or error
        text = f"cannot read the table of files: {reason}"
        raise RequestError(text, where=str(path), hint=hint) from error
    if not rows or "file" not in rows[0]:
        raise RequestError("the table lists no files", where=str(path), hint=hint)
    for number, row in enumerate(rows, 2):
        if None in row or None in row.values():
            raise RequestError(f"line {number} has not as many values as columns", where=str(path))
    return rows


def _inside(folder: Path, name: str) -> Path:
    path = (folder / name).resolve()
    if not path.is_relative_to(folder.resolve()) or not path.is_file():
        raise RequestError(f"there is no file {name!r} in the folder", where=str(folder))
    return path


def _sample(result: object, names: Sequence[str], where: str) -> dict[str, NDArray[Any]]:
    """Return input → array of what the user's function returned for one file."""
    if isinstance(result, Mapping):
        return {str(name): np.asarray(array) for name, array in result.items()}
    if len(names) > 1:
        hint = f"return a dict with the keys {', '.join(names)}"
        raise RequestError("one array, but the network has more inputs", where=where, hint=hint)
    return {names[0]: np.asarray(result)}


def _put(rows: NDArray[Any], place: int, array: NDArray[Any], name: str, where: str) -> None:
    if (array.shape, array.dtype) != (rows.shape[1:], rows.dtype):
        found = f"{array.dtype.name}{list(array.shape)}"
        before = f"{rows.dtype.name}{list(rows.shape[1:])}"
        raise RequestError(f"{name!r} is {found}, of the first file {before}", where=where)
    rows[place] = array


def _labels(texts: list[str]) -> NDArray[Any]:
    """Return labels as integers if all are, else as floats if all are, else as text."""
    for kind in (np.int64, np.float64):
        try:
            return np.array([kind(text) for text in texts])
        except (ValueError, OverflowError):
            continue
    return np.array(texts)


def _check_names(
    arrays: Mapping[str, object],
    infos: Mapping[str, TensorInfo],
    where: str,
    more: Sequence[str] = (),
) -> None:
    for name in sorted(arrays.keys() - infos.keys()):
        hint = did_you_mean(name, {*((infos.keys() - arrays.keys()) or infos), *more})
        raise RequestError(f"the network has no input {name!r}", where=where, hint=hint)
    for name, info in infos.items():
        if name not in arrays:
            hint = f"{name} = … ({_wanted(info)})"
            raise RequestError(f"no array for the input {name!r}", where=where, hint=hint)


def _wanted(info: TensorInfo) -> str:
    return f"{info.dtype}[{', '.join(map(str, info.shape))}]"


def _fitted(array: NDArray[Any], info: TensorInfo, along: bool, where: str) -> NDArray[Any]:
    """Check an array against the input that it is for, and give it that input's type."""
    sample = info.shape[1:] if along and array.ndim == len(info.shape) else info.shape
    fits = array.ndim == len(sample) + 1 and all(
        want == got or isinstance(want, str)
        for want, got in zip(sample, array.shape[1:], strict=True)
    )
    if not fits:
        shown = ", ".join(map(str, ("samples", *(info.shape[1:] if along else info.shape))))
        found = f"{info.name!r} has the shape {list(array.shape)}"
        raise RequestError(f"{found}, expected [{shown}]", where=where)
    return _cast(array, info, where)


def _cast(array: NDArray[Any], info: TensorInfo, where: str) -> NDArray[Any]:
    if not info.dtype.startswith(("float", "bfloat", "int", "uint", "bool")):
        raise RequestError(f"{info.name!r} is {info.dtype}: splitc cannot feed such values")
    wanted = np.dtype(dtype_of(info.dtype).numpy())
    if array.dtype == wanted:
        return array
    with np.errstate(over="ignore", invalid="ignore"):
        made = array.astype(wanted) if array.dtype.kind in "fiub" else None
    if made is None or not _kept(array, made, to_float=info.dtype.startswith(("float", "bfloat"))):
        hint = f"convert it: array.astype({info.dtype!r})"
        found = f"{info.name!r} is {array.dtype.name}, expected {info.dtype}"
        raise RequestError(f"{found}; a cast would change it", where=where, hint=hint)
    return made


def _kept(old: NDArray[Any], new: NDArray[Any], *, to_float: bool) -> bool:
    """Tell whether a cast lost nothing but the rounding of floats to shorter floats."""
    if old.dtype.kind == "f":
        return to_float and bool(np.array_equal(np.isfinite(old), np.isfinite(new)))
    return bool(np.array_equal(old, new.astype(old.dtype)))


def drawn(model: Model, samples: int, seed: int = 0) -> Dataset:
    """Draw random inputs by the rules of `splitc.feeds`: no data, and marked so.

    Where every input has the batch in front, samples lie along it; else each is whole.
    """
    names = [info.name for info in model.inputs]
    along = len(_along(model)) == len(names)
    taken: list[dict[str, NDArray[Any]]] = []
    while sum(len(one[names[0]]) if along else 1 for one in taken) < samples:
        taken += draw_samples(model, 1, seed + len(taken))
    join = np.concatenate if along else np.stack
    arrays = {name: join([one[name] for one in taken])[:samples] for name in names}
    return Dataset(arrays, source=f"drawn, seed {seed}", drawn=True)
