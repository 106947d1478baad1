"""A bundle is untrusted: whatever its manifest says, it runs or is refused, and nothing worse.

Whoever writes a bundle can also compute its digests, so these manifests are sealed again after they
were changed; what they say of halves, contract and self-test is then all that can be checked.
"""

import copy
import json
import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import onnx
import pytest

from splitc import bundle, manifest
from splitc.contract import Contract
from splitc.cuts import resolve
from splitc.errors import SplitcError, VerifyError
from splitc.ingest import load
from splitc.records import Source
from splitc.runtime import open_head, open_tail, run
from splitc.split import split
from splitc.verify import verify

TEXT = """<ir_version: 10, opset_import: ["": 21]>
net (float[N,3] x, float[N,3] m) => (float[N,3] y, float[N,3] a)
{ h = Sigmoid(x)  a = Relu(h)  y = Mul(a, m) }"""
VALUES: list[Any] = [None, 0, -1, 1.5, 2**70, True, "", "x", "m", "a", "y", "N", "head", "tail"]
VALUES += ["head/model.onnx", "selftest/inputs.npz", "../x", "float64", "int64", "raw", "zstd"]
VALUES += ["é", [], {}, ["x"], ["a", "a"], 10**9]
FREE = ("digest", "plan", "request", "libraries", "certificate", "checks")
"""Keys whose values nothing depends on."""


@pytest.fixture
def written(tmp_path: Path) -> Path:
    path = tmp_path / "net.onnx"
    path.write_bytes(onnx.parser.parse_model(TEXT).SerializeToString())
    whole = load(path)
    halves = split(whole, resolve(whole.graph, "m,a"))
    source = Source(model="net.onnx", fingerprint=whole.fingerprint())
    bundle.write(tmp_path / "bundle", bundle.Parts(whole, halves, source, "", {}, {}, {}))
    return tmp_path / "bundle"


def places(value: object, place: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Yield the path of every value within a JSON value."""
    yield place
    pairs = value.items() if isinstance(value, dict) else ()
    for key, inner in enumerate(value) if isinstance(value, list) else pairs:
        yield from places(inner, (*place, key))


def mutate(plain: dict[str, Any], rng: random.Random) -> str:
    """Delete, double or replace one value; return what was done."""
    at = rng.choice([p for p in places(plain) if p and p[0] not in FREE])
    holder: Any = plain
    for key in at[:-1]:
        holder = holder[key]
    kind = rng.random()
    if kind < 0.2:
        del holder[at[-1]]
        return f"delete {at}"
    if kind < 0.35 and isinstance(holder, list):
        holder.append(copy.deepcopy(rng.choice(holder)))
        return f"double at {at}"
    holder[at[-1]] = value = rng.choice(VALUES)
    return f"{at} = {value!r}"


def seal(folder: Path, plain: dict[str, Any]) -> None:
    """Write the manifest with right digests, as far as it still has what they cover."""
    try:
        contract = msgspec.convert(plain["contract"], Contract)
        files = plain["files"]
        halves: dict[str, Any] = {}
        for part in plain["segments"]:
            names = [n for n in (part["model"], f"{part['model']}.data") if n in files]
            hashes = {name: files[name]["sha256"] for name in names}
            halves[part["name"]] = hashes if part["model"] else None
        pair = manifest.pair_digest(contract.without_pair(), halves["head"], halves["tail"])
        plain["contract"]["pair"] = pair
    except (msgspec.ValidationError, KeyError, TypeError, AttributeError):
        pass  # then it is refused for that
    plain["digest"] = manifest.own_digest(plain)
    (folder / "manifest.json").write_text(json.dumps(plain))


def test_a_changed_manifest_runs_or_is_refused(written: Path) -> None:
    text = (written / "manifest.json").read_text()
    feeds = {name: np.ones((1, 3), np.float32) for name in "xm"}
    rng, outcomes = random.Random(20261125), Counter[str]()
    for _ in range(150):
        plain = json.loads(text)
        changes = [mutate(plain, rng) for _ in range(rng.choice((1, 1, 2)))]
        seal(written, plain)
        for name, act in (
            ("verify", lambda: verify(written)),
            ("run", lambda: run(written, feeds)),
        ):
            try:
                act()
            except SplitcError as error:
                outcomes[f"{name} {type(error).__name__}"] += 1
            except Exception as error:
                raise AssertionError(f"{name} after {changes}") from error
            else:
                outcomes[name] += 1
    assert outcomes["verify VerifyError"] > 50, outcomes
    assert min(outcomes["verify"], outcomes["run"]) > 10, "some changes do no harm"


def change(folder: Path, place: tuple[Any, ...], value: object) -> None:
    plain = json.loads((folder / "manifest.json").read_text())
    holder = plain
    for key in place[:-1]:
        holder = holder[key]
    holder[place[-1]] = value
    seal(folder, plain)


MISFITS: dict[str, tuple[tuple[Any, ...], object, str]] = {
    "needs": (("segments", 0, "needs"), ["q"], "the head needs 'q'"),
    "crosses": (("contract", "tensors", 1, "name"), "q", "nobody makes 'q'"),
    "tail needs": (("segments", 1, "needs"), ["a", "m", "q"], "the tail needs 'q'"),
    "tail makes": (("segments", 1, "gives"), [], "the tail does not make 'y'"),
    "no output": (("outputs", 0, "name"), "q", "gives, which is no output, 'y'"),
    "no side": (("contract", "gives"), [], "no side gives 'y'"),
}


@pytest.mark.parametrize(("place", "value", "message"), MISFITS.values(), ids=MISFITS)
def test_halves_that_do_not_fit_the_contract(
    written: Path, place: tuple[Any, ...], value: object, message: str
) -> None:
    change(written, place, value)
    for opened in (open_head, open_tail):
        with pytest.raises(VerifyError, match=message):
            opened(written)
    report = verify(written)
    assert not report.ok
    assert message in next(c.detail for c in report.checks if c.name == "contract")


def test_an_empty_side_gives_nothing(written: Path) -> None:
    """It has no file, whatever the manifest says that it gives."""
    change(written, ("segments", 0, "model"), None)
    with pytest.raises(VerifyError, match="the head does not make"):
        verify(written)


def replace_half(folder: Path, side: str, text: str) -> None:
    """Put another network in the place of a half, with all digests right."""
    data = onnx.parser.parse_model(TEXT.partition("\n")[0] + text).SerializeToString()
    (folder / f"{side}/model.onnx").write_bytes(data)
    plain = json.loads((folder / "manifest.json").read_text())
    record = {"sha256": manifest.file_digest(folder / f"{side}/model.onnx"), "bytes": len(data)}
    plain["files"][f"{side}/model.onnx"] = record
    seal(folder, plain)


LIARS = {
    "another output": "n (float[N,3] x) => (float[N,3] b) { b = Relu(x) }",
    "another input": "n (float[N,3] q) => (float[N,3] a) { a = Relu(q) }",
    "another rank": "n (float[N,3] x) => (float[N] a) { k = Constant <value = int64[1] {1}> ()"
    "  a = ReduceSum <keepdims = 0> (x, k) }",
    "another type": "n (float[N,3] x) => (double[N,3] a) { a = Cast <to = 11> (x) }",
}


@pytest.mark.parametrize("text", LIARS.values(), ids=LIARS)
def test_a_half_that_is_not_what_the_manifest_says(written: Path, text: str) -> None:
    replace_half(written, "head", text)
    with pytest.raises(SplitcError):
        run(written, {name: np.ones((1, 3), np.float32) for name in "xm"})
    with pytest.raises(SplitcError):
        verify(written)


def test_weights_outside_the_bundle_are_not_read(written: Path) -> None:
    secret = written.parent / "secret"
    secret.write_bytes(np.ones(3, "f").tobytes())
    model = onnx.load(written / "head/model.onnx")
    weight = onnx.TensorProto(name="w", data_type=1, dims=(3,))
    weight.data_location = onnx.TensorProto.EXTERNAL
    weight.external_data.add(key="location", value="../../secret")
    model.graph.initializer.append(weight)
    model.graph.node[0].CopyFrom(onnx.helper.make_node("Add", ["x", "w"], ["h"]))
    (written / "head/model.onnx").write_bytes(model.SerializeToString())
    plain = json.loads((written / "manifest.json").read_text())
    path = written / "head/model.onnx"
    record = {"sha256": manifest.file_digest(path), "bytes": path.stat().st_size}
    plain["files"]["head/model.onnx"] = record
    seal(written, plain)
    with pytest.raises(SplitcError, match=r"[Ee]xternal|escapes|outside"):
        run(written, {name: np.ones((1, 3), np.float32) for name in "xm"})
