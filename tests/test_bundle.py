"""A bundle: atomic, the same bytes each time, and believed only after it was checked."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from splitc import bundle, manifest, runtime, selftest
from splitc.cuts import resolve
from splitc.errors import RequestError, VerifyError
from splitc.ingest import load
from splitc.model import Model
from splitc.records import CheckRecord, Source
from splitc.split import split

ROOT = Path(__file__).resolve().parent.parent
TEXT = '<ir_version: 10, opset_import: ["": 21]>\n'
WHOLE = """net (float[N,3] x, float[N,3] m) => (float[N,3] y, float[N,3] a)
<float[3] w = {1.5, 2.0, -1.0}> { h = Mul(x, w)  a = Relu(h)  y = Mul(a, m) }"""


def model(text: str, folder: Path, *inputs: str) -> Model:
    folder.mkdir(exist_ok=True)
    path = folder / "net.onnx"
    path.write_bytes(onnx.parser.parse_model(TEXT + text).SerializeToString())
    return load(path, input=inputs)


def wide(text: str, size: int) -> str:
    weights = ", ".join(["1.5", "2.0", "-1.0"] * (size // 3))
    return text.replace("1.5, 2.0, -1.0", weights).replace("3]", f"{size}]")


def parts(folder: Path, kind: str = "inner", *inputs: str, size: int = 3) -> bundle.Parts:
    whole = model(wide(WHOLE, size), folder, *inputs)
    cut = resolve(whole.graph, {"inner": "m,a", "input": "@input", "output": "@output"}[kind])
    return bundle.Parts(
        model=whole,
        split=split(whole, cut),
        source=Source(model="net.onnx", fingerprint=whole.fingerprint()),
        passes="simplify",
        request={"head": "pi", "inputs": ()},
        plan={"kind": kind, "latency_s": 0.25},
        certificate={"method": "flow"},
    )


@pytest.fixture
def written(tmp_path: Path) -> Path:
    bundle.write(tmp_path / "bundle", parts(tmp_path / "in"))
    return tmp_path / "bundle"


def tree(folder: Path) -> dict[str, bytes]:
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("kind", ["inner", "input", "output"])
def test_two_runs_in_two_folders_give_the_same_bytes(tmp_path: Path, kind: str) -> None:
    checks = [CheckRecord(name="output y", status="pass", worst_error=3e-7, tolerance=1e-5)]
    for name in ("one", "two/deeper"):
        bundle.write(tmp_path / name, parts(tmp_path / "in", kind), checks)
    first = tree(tmp_path / "one")
    assert first == tree(tmp_path / "two/deeper")
    assert str(tmp_path).encode() not in b"".join(first.values())
    sides = {"inner": {"head", "tail"}, "input": {"tail"}, "output": {"head"}}[kind]
    assert {name.split("/")[0] for name in first} == sides | {"selftest", "manifest.json"}
    read = manifest.read(tmp_path / "one")
    assert {s.name for s in read.segments if s.model is not None} == sides
    assert read.checks == tuple(checks)


@pytest.mark.parametrize("kind", ["inner", "input", "output"])
def test_a_bundle_runs(tmp_path: Path, kind: str) -> None:
    bundle.write(tmp_path / "b", parts(tmp_path / "in", kind))
    x = np.array([[1, -1, 2]], np.float32)
    got = runtime.run(tmp_path / "b", {"x": x, "m": x + 1})
    assert got["a"].tolist() == [[1.5, 0, 0]]
    assert got["y"].tolist() == [[3, 0, 0]]


def test_the_contract_is_bounded_by_the_largest_input(tmp_path: Path) -> None:
    given = parts(tmp_path, "inner", "x=1..2..8x3", "m=1..2..8x3")
    made = bundle.contract(given)
    assert [(t.name, t.shape, t.max_bytes) for t in made.tensors] == [
        ("m", ("N", 3), 8 * 3 * 4),
        ("a", ("N", 3), 8 * 3 * 4),
    ]


def extension(out: Path) -> None:
    """Write what others call a manifest: a browser's extension."""
    out.mkdir()
    (out / "manifest.json").write_text('{"manifest_version": 3, "name": "mine"}')
    (out / "mine.js").write_text("mine")


def with_notes(out: Path) -> None:
    """Write a bundle to which somebody added a file."""
    bundle.write(out, parts(out.parent / "in"))
    (out / "notes.txt").write_text("mine")


TARGETS: dict[str, Callable[[Path], object]] = {
    "another manifest": extension,
    "a bundle with something else": with_notes,
    "a folder with something else": lambda out: shutil.copytree(ROOT / "docs", out),
    "a file": lambda out: out.write_text("mine"),
    "a link": lambda out: out.symlink_to(out.parent),
}


@pytest.mark.parametrize("make", TARGETS.values(), ids=TARGETS)
def test_what_is_not_a_bundle_is_left_alone(tmp_path: Path, make: Callable[[Path], object]) -> None:
    given = parts(tmp_path / "in")
    make(tmp_path / "out")
    before = tree(tmp_path)
    with pytest.raises(RequestError, match="the output"):
        bundle.write(tmp_path / "out", given)
    assert tree(tmp_path) == before


def test_an_empty_folder_is_taken(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    bundle.write(tmp_path / "out", parts(tmp_path / "in"))
    manifest.read(tmp_path / "out")


def test_the_previous_bundle_stays_until_the_new_one_is_published(written: Path) -> None:
    before, beside = tree(written), sorted(written.parent.iterdir())
    given = parts(written.parent / "in", "output")
    with bundle.stage(written, given) as staged:
        assert manifest.read(staged.folder).segment("tail").model is None
        assert tree(written) == before
    assert tree(written) == before, "not published"
    with pytest.raises(ZeroDivisionError), bundle.stage(written, given):
        raise ZeroDivisionError
    assert tree(written) == before, "failed"
    bundle.write(written, given)
    assert manifest.read(written).segment("tail").model is None
    assert sorted(written.parent.iterdir()) == beside, "nothing is left behind"


def test_a_race_for_the_free_folder_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between looking and moving another run takes the place: its bundle is exchanged."""
    out, inside = tmp_path / "out", parts(tmp_path / "in")
    bundle.write(out, parts(tmp_path / "in", "output"))
    with bundle.stage(out, inside) as slow:
        exists = Path.exists
        monkeypatch.setattr(Path, "exists", lambda path: path != out and exists(path))
        slow.publish()
        monkeypatch.undo()
    assert manifest.read(out).segment("tail").model is not None


def test_what_took_the_place_meanwhile_is_left_alone(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with bundle.stage(out, parts(tmp_path / "in")) as slow:
        out.mkdir()
        (out / "thesis.tex").write_text("mine")
        with pytest.raises(RequestError, match="is not a bundle"):
            slow.publish()
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_a_system_that_cannot_exchange_folders(
    written: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bundle, "_exchange", lambda one, other: False)
    beside = sorted(written.parent.iterdir())
    bundle.write(written, parts(written.parent / "in", "output"))
    assert manifest.read(written).segment("tail").model is None
    assert sorted(written.parent.iterdir()) == beside


def test_the_selftest_keeps_types_that_npz_cannot_name(tmp_path: Path) -> None:
    import ml_dtypes

    narrow = np.array([1.5, -2], ml_dtypes.bfloat16)
    sample = {"a/b:0": narrow, "s": np.array(3), "e": np.zeros((0, 2), bool)}
    selftest.write(tmp_path / "t.npz", [sample, sample])
    types = {"a/b:0": "bfloat16", "s": "int64", "e": "bool"}
    for back in selftest.read(tmp_path / "t.npz", 2, types):
        for name, array in sample.items():
            assert back[name].dtype == array.dtype
            assert back[name].shape == array.shape
            assert back[name].tobytes() == array.tobytes()
    with pytest.raises(VerifyError, match="lacks '2/s'"):
        selftest.read(tmp_path / "t.npz", 3, {"s": "int64"})
    with pytest.raises(VerifyError, match="'0/s' is int64, expected float32"):
        selftest.read(tmp_path / "t.npz", 1, {"s": "float32"})


def test_folders_without_end(written: Path) -> None:
    (written / "/".join("d" * 40)).mkdir(parents=True)
    with pytest.raises(VerifyError, match="nested too deeply"):
        manifest.read(written)


def test_large_weights_lie_beside_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("splitc.model.EXTERNAL_ABOVE", 0)
    bundle.write(tmp_path / "b", parts(tmp_path / "in", size=99))
    assert (tmp_path / "b/head/model.onnx.data").stat().st_size >= 99 * 4
    runtime.run(tmp_path / "b", {k: np.ones((1, 99), np.float32) for k in "xm"})
    flip(tmp_path / "b/head/model.onnx.data")
    with pytest.raises(VerifyError, match="wrong"):
        manifest.read(tmp_path / "b")


# What `manifest.read` refuses.


def edit(folder: Path, change: Callable[[dict[str, Any]], object], *, seal: bool = True) -> None:
    """Change the manifest; with `seal` its own digest is made right again."""
    path = folder / "manifest.json"
    plain = json.loads(path.read_text())
    change(plain)
    if seal:
        plain["digest"] = manifest.own_digest(plain)
    path.write_text(json.dumps(plain))


def relink(folder: Path) -> None:
    (folder / "tail/model.onnx").rename(folder.parent / "elsewhere")
    (folder / "tail/model.onnx").symlink_to(folder.parent / "elsewhere")


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def listed(path: str) -> Callable[[Path], object]:
    return lambda d: edit(d, lambda m: m["files"].update({path: m["files"]["head/model.onnx"]}))


def both_gone(folder: Path) -> None:
    shutil.rmtree(folder / "head")
    shutil.rmtree(folder / "tail")


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "no manifest": (lambda d: (d / "manifest.json").unlink(), "this is not a bundle"),
    "no JSON": (lambda d: (d / "manifest.json").write_text("{"), "not sound JSON"),
    "a list": (lambda d: (d / "manifest.json").write_text("[]"), "not a JSON object"),
    "NaN": (lambda d: (d / "manifest.json").write_text('{"version": NaN}'), "NaN is no JSON"),
    "1e999": (lambda d: (d / "manifest.json").write_text('{"version": 1e999}'), "not sound"),
    "deep": (lambda d: (d / "manifest.json").write_text("[" * 10**6), "not sound JSON"),
    "not UTF-8": (lambda d: (d / "manifest.json").write_bytes(b'"\xff"'), "not sound JSON"),
    "twice": (lambda d: (d / "manifest.json").write_text('{"a":1,"a":1}'), "stands twice"),
    "version": (lambda d: edit(d, lambda m: m.update(version=2)), "version 2 is unknown"),
    "no version": (lambda d: edit(d, lambda m: m.pop("version")), "version None is unknown"),
    "unknown key": (lambda d: edit(d, lambda m: m.update(more=1)), "unknown field `more`"),
    "missing key": (lambda d: edit(d, lambda m: m.pop("plan")), "missing required field `plan`"),
    "own digest": (
        lambda d: edit(d, lambda m: m["plan"].update(latency_s=0.1), seal=False),
        "the manifest's digest is wrong",
    ),
    "file digest": (lambda d: flip(d / "tail/model.onnx"), "wrong digest"),
    "file length": (
        lambda d: (d / "selftest/inputs.npz").write_bytes(b""),
        r"wrong length \(0, expected",
    ),
    "missing file": (lambda d: (d / "head/model.onnx").unlink(), "is missing"),
    "missing self-test": (lambda d: shutil.rmtree(d / "selftest"), "is missing"),
    "no side": (both_gone, "both sides are absent"),
    "unlisted": (lambda d: (d / "head/x.so").write_text("x"), "not listed in the manifest"),
    "linked file": (relink, "plain files only, no links"),
    "linked folder": (lambda d: (d / "more").symlink_to("/"), "plain files only, no links"),
    "pipe": (lambda d: os.mkfifo(d / "head/pipe"), "plain files only, no links"),
    "up": (listed("head/../../x"), "leaves the bundle"),
    "absolute": (listed("/etc/passwd"), "leaves the bundle"),
    "windows": (listed("C:\\x"), "leaves the bundle"),
    "itself": (listed("manifest.json"), "the manifest lists"),
    "not listed": (listed("head/more"), "is missing"),
    "sides": (lambda d: edit(d, lambda m: m["segments"].pop()), "not head and tail"),
    "model elsewhere": (
        lambda d: edit(d, lambda m: m["segments"][0].update(model="tail/model.onnx")),
        "not listed under it",
    ),
    "pair": (
        lambda d: edit(d, lambda m: m["contract"].update(pair="00" * 32)),
        "the pair digest is wrong",
    ),
    "contract": (
        lambda d: edit(d, lambda m: m["contract"]["tensors"][0].update(max_bytes=1)),
        "the pair digest is wrong",
    ),
}


@pytest.mark.parametrize(("damage", "message"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_bundle_is_refused(
    written: Path, damage: Callable[[Path], object], message: str
) -> None:
    manifest.read(written)
    damage(written)
    with pytest.raises(VerifyError, match=message) as error:
        manifest.read(written)
    assert error.value.exit_code == 3


def test_one_side_may_be_absent(written: Path) -> None:
    shutil.rmtree(written / "tail")
    assert manifest.absent(written, manifest.read(written)) == ("tail",)
    flip(written / "head/model.onnx")
    manifest.read(written, side="tail")
    with pytest.raises(VerifyError, match="wrong digest"):
        manifest.read(written, side="head")


def test_finished_json_adds_files(written: Path) -> None:
    engine = written / "tail/a100/net.engine"
    engine.parent.mkdir()
    engine.write_bytes(b"engine")
    record = {"sha256": manifest.file_digest(engine), "bytes": 6}
    added = {"files": {"tail/a100/net.engine": record}, "gpu": "A100"}
    (written / "finished.json").write_text(json.dumps(added))
    manifest.read(written)
    flip(engine)
    with pytest.raises(VerifyError, match="wrong digest"):
        manifest.read(written)
    added = {"files": {"head/model.onnx": record}}
    (written / "finished.json").write_text(json.dumps(added))
    with pytest.raises(VerifyError, match="which is the manifest's"):
        manifest.read(written)


def test_the_schema_is_the_published_one(written: Path) -> None:
    jsonschema: Any = pytest.importorskip("jsonschema")

    published = json.loads((ROOT / "docs/manifest.schema.json").read_text())
    assert published == manifest.schema()
    jsonschema.validate(json.loads((written / "manifest.json").read_text()), published)


def test_the_canonical_form_is_the_published_one() -> None:
    value = {"b": [1, 1.5, None, True], "a": "é\u2028/\n", "contract": {}}
    text = '{"a":"é\u2028/\\n","b":[1,1.5,null,true],"contract":{}}'
    assert manifest.canonical_json(value) == text.encode()
    for bad in (float("nan"), float("inf"), "\ud800"):
        with pytest.raises(ValueError, match=r"JSON compliant|surrogates"):
            manifest.canonical_json({"a": bad})


def test_the_manifest_is_read_without_onnx(written: Path) -> None:
    code = f"""
import sys
from splitc import manifest
manifest.read({str(written)!r})
assert not {{"onnx", "onnx_ir", "onnxruntime", "torch", "scipy", "numpy"}} & sys.modules.keys()
"""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=env)


def test_text_and_back(written: Path) -> None:
    read = manifest.read(written)
    assert manifest.parse(manifest.dumps(read)) == read
    assert manifest.sealed(read) == read
