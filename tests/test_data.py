"""Data for calibration, training and the gate: what is read, what is refused, in which batches."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from splitc.data import Dataset, drawn, load
from splitc.errors import RequestError
from splitc.execute import evaluate
from splitc.ingest import load as load_model
from splitc.model import Model
from tests.networks import model as network

IMAGE = "n (float[N,3,4,4] x) => (float[N,3,4,4] y) { y = Relu(x) }"
FIXED = IMAGE.replace("N,3", "1,3")
FOUR = IMAGE.replace("N,3", "4,3")
TWO = "n (float[N,2] a, int64[N,3] b) => (float[N,2] y) { y = Relu(a) }"
STATE = (
    "n (float[N,5] x, float[2,N,3] state, int64 rate) => (float[N,5] y, float[2,N,3] z, int64 r) "
    "{ y = Relu(x)  z = Relu(state)  r = Identity(rate) }"
)
X = np.arange(7 * 48, dtype=np.float32).reshape(7, 3, 4, 4)
STATES: dict[str, NDArray[Any]] = {
    "x": np.arange(20, dtype=np.float32).reshape(4, 5),
    "state": np.arange(24, dtype=np.float32).reshape(4, 2, 1, 3),
    "rate": np.arange(4),
}


def archive(folder: Path, **arrays: Any) -> Path:
    path = folder / "data.npz"
    np.savez(path, **arrays)
    return path


def test_an_archive_is_inputs_and_labels(tmp_path: Path) -> None:
    data = load(archive(tmp_path, x=X, label=np.arange(7)), network(IMAGE, tmp_path))
    assert list(data.inputs) == ["x"]
    np.testing.assert_array_equal(data.inputs["x"], X)
    np.testing.assert_array_equal(data.labels, np.arange(7))
    assert (len(data), data.source, data.drawn) == (7, "data.npz", False)
    assert load(archive(tmp_path, x=X), network(IMAGE, tmp_path)).labels is None


def test_an_input_called_label_is_an_input(tmp_path: Path) -> None:
    text = "n (float[N,3] label) => (float[N,3] y) { y = Relu(label) }"
    data = load(archive(tmp_path, label=np.ones((2, 3), np.float32)), network(text, tmp_path))
    assert (list(data.inputs), data.labels) == (["label"], None)


CASTS: dict[str, tuple[str, NDArray[Any], NDArray[Any] | None]] = {
    "float64 is rounded": ("float", np.array([0.1, np.inf]), np.array([0.1, np.inf], np.float32)),
    "beyond float32": ("float", np.array([1e300]), None),
    "float16": ("float16", np.array([0.1], np.float32), np.array([0.1], np.float16)),
    "beyond float16": ("float16", np.array([1e5], np.float32), None),
    "bytes into floats": ("float", np.array([0, 255], np.uint8), np.array([0, 255], np.float32)),
    "too long for a float": ("float", np.array([2**24 + 1]), None),
    "int32 to int64": ("int64", np.array([-1, 5], np.int32), np.array([-1, 5])),
    "int64 that fits": ("int8", np.array([-128, 127]), np.array([-128, 127], np.int8)),
    "int64 that does not": ("int8", np.array([-129]), None),
    "below zero": ("uint8", np.array([-1]), None),
    "floats into integers": ("int64", np.array([1.0]), None),
    "0 and 1 are booleans": ("bool", np.array([0, 1]), np.array([False, True])),
    "2 is no boolean": ("bool", np.array([2]), None),
    "text": ("float", np.array(["1"]), None),
    "complex": ("float", np.array([1j]), None),
}


@pytest.mark.parametrize(("kind", "given", "wanted"), CASTS.values(), ids=CASTS)
def test_casts(tmp_path: Path, kind: str, given: NDArray[Any], wanted: NDArray[Any] | None) -> None:
    whole = network(f"n ({kind}[N] x) => ({kind}[N] y) {{ y = Identity(x) }}", tmp_path)
    path = archive(tmp_path, x=given)
    if wanted is None:
        with pytest.raises(RequestError, match="a cast would change it"):
            load(path, whole)
    else:
        found = load(path, whole).inputs["x"]
        assert found.dtype == wanted.dtype
        np.testing.assert_array_equal(found, wanted)


WRONG: dict[str, tuple[str, dict[str, Any], str]] = {
    "another name": (IMAGE, {"y": X}, "the network has no input 'y'"),
    "labels by another name": (
        IMAGE, {"x": X, "labels": np.arange(7)}, "did you mean 'label'?"),
    "a near name": (TWO, {"a": np.ones((2, 2)), "bb": np.ones((2, 3))}, "did you mean 'b'?"),
    "one missing": (TWO, {"a": np.ones((2, 2))}, "b = … (int64[N, 3])"),
    "another size": (
        IMAGE, {"x": X[:, :2]}, "'x' has the shape [7, 2, 4, 4], expected [samples, 3, 4, 4]"),
    "another rank": (IMAGE, {"x": X[:, 0]}, "expected [samples, 3, 4, 4]"),
    "one sample without an axis for it": (FIXED, {"x": X[0]}, "expected [samples, 3, 4, 4]"),
    "a number": (IMAGE, {"x": X, "label": 3}, "'(labels)' is one number, not samples"),
    "no samples": (IMAGE, {"x": X[:0]}, "the data hold no sample"),
    "lengths": (IMAGE, {"x": X, "label": np.arange(6)}, "'x' 7, '(labels)' 6"),
    "lengths of inputs": (
        TWO, {"a": np.ones((2, 2)), "b": np.ones((3, 3), int)}, "'a' 2, 'b' 3"),
    "a state along its first axis": (
        STATE, {**STATES, "state": STATES["state"][:, :, 0]}, "expected [samples, 2, N, 3]"),
    "Python objects": (IMAGE, {"x": np.array([{}, 1])}, "cannot read the data"),
}  # fmt: skip


@pytest.mark.parametrize(("text", "arrays", "reason"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_said(
    tmp_path: Path, text: str, arrays: dict[str, Any], reason: str
) -> None:
    with pytest.raises(RequestError) as caught:
        load(archive(tmp_path, **arrays), network(text, tmp_path))
    assert reason in str(caught.value)
    assert "data.npz" in str(caught.value)


def bare(path: Path) -> None:
    np.save(path.with_suffix(".npy"), X)
    path.with_suffix(".npy").rename(path)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:700]),
    "cut short inside": lambda path: path.write_bytes(path.read_bytes()[:-30]),
    "a byte changed": lambda path: path.write_bytes(
        path.read_bytes().replace(X[3].tobytes()[:9], b"123456789")
    ),
    "another header": lambda path: path.write_bytes(
        path.read_bytes().replace(b"(7, 3, 4, 4)", b"(7, 9, 9, 9)")
    ),
    "no archive": lambda path: path.write_bytes(b"hello"),
    "empty": lambda path: path.write_bytes(b""),
    "gone": Path.unlink,
    "an array alone": bare,
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_archive_is_said(tmp_path: Path, damage: Callable[[Path], object]) -> None:
    path = archive(tmp_path, x=X)
    damage(path)
    with pytest.raises(RequestError) as caught:
        load(path, network(IMAGE, tmp_path))
    assert str(path) in str(caught.value)


def test_a_pickle_is_not_opened(tmp_path: Path) -> None:
    """An array of objects would run code when it is read: the marker must stay away."""
    marker = tmp_path / "ran"
    planted = io.BytesIO()
    np.save(planted, np.array([_Planted(marker)]), allow_pickle=True)
    path = tmp_path / "data.npz"
    import zipfile

    with zipfile.ZipFile(path, "w") as file:
        file.writestr("x.npy", planted.getvalue())
    with pytest.raises(RequestError, match="allow_pickle"):
        load(path, network(IMAGE, tmp_path))
    assert not marker.exists()


class _Planted:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (self.marker,))


def sizes(data: Dataset, model: Model, batch: int = 64) -> list[int]:
    return [len(next(iter(feed.values()))) for feed in data.feeds(model, batch)]


BATCHES: dict[str, tuple[str, int, list[int]]] = {
    "as many as asked": (IMAGE, 3, [3, 3, 1]),
    "one at a time": (FIXED, 3, [1] * 7),
    "four at a time, filled up": (FOUR, 3, [4, 4]),
}


@pytest.mark.parametrize(("text", "batch", "wanted"), BATCHES.values(), ids=BATCHES)
def test_batches(tmp_path: Path, text: str, batch: int, wanted: list[int]) -> None:
    whole = network(text, tmp_path)
    data = load(archive(tmp_path, x=X), whole)
    assert sizes(data, whole, batch) == wanted
    got = np.concatenate([evaluate(whole, feed)["y"] for feed in data.feeds(whole, batch)])
    np.testing.assert_array_equal(got[: len(data)], X)
    np.testing.assert_array_equal(got[len(data) :], X[: len(got) - len(data)])


def test_batches_share_the_memory_of_the_whole(tmp_path: Path) -> None:
    whole = network(IMAGE, tmp_path)
    data = Dataset({"x": X})
    assert all(np.shares_memory(feed["x"], X) for feed in data.feeds(whole, 3))
    assert np.shares_memory(data.take(slice(2, 5)).inputs["x"], X)


def test_states_and_scalars_are_fed_whole(tmp_path: Path) -> None:
    whole = network(STATE, tmp_path)
    data = load(archive(tmp_path, **STATES), whole)
    feeds = list(data.feeds(whole))
    assert [feed["rate"].shape for feed in feeds] == [()] * 4
    assert [feed["state"].shape for feed in feeds] == [(2, 1, 3)] * 4
    assert [feed["x"].shape for feed in feeds] == [(1, 5)] * 4
    got = [evaluate(whole, feed) for feed in feeds]
    np.testing.assert_array_equal(np.stack([one["z"] for one in got]), STATES["state"])
    np.testing.assert_array_equal(np.stack([one["r"] for one in got]), STATES["rate"])


def test_feeds_ask_for_every_input(tmp_path: Path) -> None:
    data = Dataset({"x": X})
    with pytest.raises(RequestError, match="the data have no input 'a'"):
        next(data.feeds(network(TWO, tmp_path)))
    with pytest.raises(RequestError, match=r"have the shape \[7, 3\], the input is float32\[N, 3"):
        next(Dataset({"x": X[:, :, 0, 0]}).feeds(network(IMAGE, tmp_path)))


def test_the_digest_is_of_what_is_in_it() -> None:
    data = Dataset({"x": X}, np.arange(7), "a.npz")
    assert data.digest == Dataset({"x": X.copy()}, np.arange(7), "b.npz").digest
    assert data == Dataset({"x": np.asfortranarray(X)}, np.arange(7))
    assert hash(data) == hash(Dataset({"x": X}, np.arange(7)))
    changed = X.copy()
    changed[6, 2, 3, 3] += 1
    others = [
        Dataset({"x": changed}, np.arange(7)),
        Dataset({"y": X}, np.arange(7)),
        Dataset({"x": X}),
        Dataset({"x": X}, np.arange(7)[::-1]),
        Dataset({"x": X.reshape(7, 4, 4, 3)}, np.arange(7)),
        Dataset({"x": X.view(np.int32)}, np.arange(7)),
    ]
    assert len({data.digest, *(other.digest for other in others)}) == 7
    assert len(repr(data)) < 100
    texts = [Dataset({"x": X[:2]}, np.array(t)).digest for t in (["a", "bc"], ["ab", "c"])]
    assert texts[0] != texts[1]
    many = np.arange(1000, dtype=np.float32).reshape(200, 5)
    moved = many.copy()
    moved[150] += 1
    assert Dataset({"x": many}) == Dataset({"x": np.asfortranarray(many)})
    assert Dataset({"x": many}) != Dataset({"x": moved})


def test_halves_are_disjoint_and_seeded() -> None:
    data = Dataset({"x": X}, np.arange(7))
    tune, gate = data.halves(3)
    assert (len(tune), len(gate)) == (4, 3)
    assert tune.labels is not None
    assert gate.labels is not None
    assert sorted([*tune.labels, *gate.labels]) == list(range(7))
    np.testing.assert_array_equal(gate.inputs["x"], X[gate.labels])
    assert data.halves(3) == (tune, gate)
    assert data.halves(4) != (tune, gate)
    with pytest.raises(RequestError, match="cannot be halved"):
        data.take([2]).halves()


DRAWN = {"batch in front": IMAGE, "fixed at 1": FIXED, "fixed at 4": FOUR, "states": STATE,
    "an integer and a float": TWO}  # fmt: skip


@pytest.mark.parametrize("text", DRAWN.values(), ids=DRAWN)
def test_drawn_data_say_so_and_run(tmp_path: Path, text: str) -> None:
    whole = network(text, tmp_path)
    data = drawn(whole, 6, seed=1)
    assert data.drawn
    assert len(data) == 6
    assert data == drawn(whole, 6, seed=1)
    assert data != drawn(whole, 6, seed=2)
    assert all(evaluate(whole, feed) for feed in data.feeds(whole))
    first = data.inputs[whole.inputs[0].name]
    assert len({row.tobytes() for row in first}) == 6


CODE = """
import numpy as np
def pixels(path):
    return np.frombuffer(path.read_bytes(), np.uint8)
def both(path):
    return {"a": pixels(path)[:2], "b": pixels(path)[:3]}
def fails(path):
    raise KeyError(path.name)
def named(path):
    return {"z": pixels(path)}
number = 3
"""
VECTOR = "n (float[N,4] x) => (float[N,4] y) { y = Relu(x) }"


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "images"
    (folder / "sub").mkdir(parents=True)
    (folder / "one.raw").write_bytes(bytes([1, 2, 3, 4]))
    (folder / "sub" / "two.raw").write_bytes(bytes([5, 6, 7, 8]))
    (folder / "short.raw").write_bytes(bytes([5]))
    (folder / "labels.csv").write_text("file,label\none.raw,3\nsub/two.raw,0\n")
    (tmp_path / "splitc_test_pixels.py").write_text(CODE)
    monkeypatch.chdir(tmp_path)
    return folder


def test_an_image_folder(images: Path, tmp_path: Path) -> None:
    data = load(images, network(VECTOR, tmp_path), "splitc_test_pixels:pixels")
    assert data.inputs["x"].dtype == np.float32
    assert data.inputs["x"].tolist() == [[1, 2, 3, 4], [5, 6, 7, 8]]
    assert data.labels is not None
    assert data.labels.tolist() == [3, 0]
    assert data.labels.dtype == np.int64
    several = load(images, network(TWO, tmp_path), "splitc_test_pixels:both")
    assert several.inputs["a"].tolist() == [[1, 2], [5, 6]]
    assert several.inputs["b"].tolist() == [[1, 2, 3], [5, 6, 7]]


LABELS = {
    "integers": ("file,label\none.raw,3\none.raw,-4\n", [3, -4]),
    "numbers": ("file,label\none.raw,3\none.raw,0.5\n", [3.0, 0.5]),
    "text": ("file,label\none.raw,cat\none.raw,3\n", ["cat", "3"]),
    "other columns, another order": ("label,who,file\n7,me,one.raw\n", [7]),
    "none": ("file\none.raw\none.raw\n", None),
    "a mark in front": ("\ufefffile,label\none.raw,1\n", [1]),
}


@pytest.mark.parametrize(("table", "wanted"), LABELS.values(), ids=LABELS)
def test_labels(images: Path, tmp_path: Path, table: str, wanted: list[Any] | None) -> None:
    (images / "labels.csv").write_text(table, "utf-8")
    data = load(images, network(VECTOR, tmp_path), "splitc_test_pixels:pixels")
    assert (None if data.labels is None else data.labels.tolist()) == wanted


FOLDERS: dict[str, tuple[str, str | None, str]] = {
    "no function": ("file,label\none.raw,1\n", None, "needs a preprocess function"),
    "no such function": ("file,label\none.raw,1\n", "splitc_test_pixels:pixel", "did you mean"),
    "no name": ("file,label\none.raw,1\n", "pixels", "pkg.mod:fn"),
    "no code": ("file,label\none.raw,1\n", "splitc_test_pixels:number", "of type int"),
    "it fails": ("file,label\none.raw,1\n", "splitc_test_pixels:fails", "KeyError: 'one.raw'"),
    "another input": ("file,label\none.raw,1\n", "splitc_test_pixels:named", "no input 'z'"),
    "sizes": ("file,label\none.raw,1\nshort.raw,1\n", "splitc_test_pixels:pixels",
        "'x' is uint8[1], of the first file uint8[4]"),
    "no file": ("file,label\nnone.raw,1\n", "splitc_test_pixels:pixels", "no file 'none.raw'"),
    "outside": ("file,label\n../net.onnx,1\n", "splitc_test_pixels:pixels", "no file '../net"),
    "no table": ("", "splitc_test_pixels:pixels", "lists no files"),
    "other columns": ("name,label\none.raw,1\n", "splitc_test_pixels:pixels", "file,label"),
    "a short line": ("file,label\none.raw\n", "splitc_test_pixels:pixels", "line 2 has not"),
    "a long line": ("file,label\none.raw,1,2\n", "splitc_test_pixels:pixels", "line 2 has not"),
}  # fmt: skip


@pytest.mark.parametrize(("table", "made", "reason"), FOLDERS.values(), ids=FOLDERS)
def test_a_folder_that_does_not_work(
    images: Path, tmp_path: Path, table: str, made: str | None, reason: str
) -> None:
    (images / "labels.csv").write_text(table)
    with pytest.raises(RequestError) as caught:
        load(images, network(VECTOR, tmp_path), made)
    assert reason in str(caught.value)


def test_a_folder_without_a_table_and_an_archive_with_a_function(
    images: Path, tmp_path: Path
) -> None:
    (images / "labels.csv").unlink()
    whole = network(VECTOR, tmp_path)
    with pytest.raises(RequestError, match="cannot read the table") as caught:
        load(images, whole, "splitc_test_pixels:pixels")
    assert "file,label" in caught.value.hint
    with pytest.raises(RequestError, match="needs no preprocess"):
        load(archive(tmp_path, x=np.ones((2, 4))), whole, "splitc_test_pixels:pixels")


def test_several_inputs_need_a_dict(images: Path, tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="return a dict with the keys a, b"):
        load(images, network(TWO, tmp_path), "splitc_test_pixels:pixels")


@pytest.mark.shared
def test_silero_runs_on_what_is_read(shared: Path, tmp_path: Path) -> None:
    whole = load_model(shared / "models" / "silero_vad_16k_op15.onnx")
    rng = np.random.default_rng(0)
    arrays = {
        "input": 0.1 * rng.standard_normal((3, 512)),
        "state": np.zeros((3, 2, 1, 128), np.float32),
        "sr": np.full(3, 16000, np.int32),
    }
    data = load(archive(tmp_path, **arrays), whole)
    results = [evaluate(whole, feed)["output"] for feed in data.feeds(whole)]
    assert [result.shape for result in results] == [(1, 1)] * 3
    assert len({float(result.item()) for result in results}) == 3
