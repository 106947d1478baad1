"""The command line as a user types it: results, errors, exit codes, and configurations."""

import json
import tomllib
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx.reference import ReferenceEvaluator

import splitc
from splitc.cli import COMMANDS, main

TEXT = """<ir_version: 10, opset_import: ["": 20]>
net (float[batch, 3, 16, 16] image) => (float[batch, 10] logits)
<float[8, 3, 3, 3] w0 = {WEIGHTS0}, float[10, 8] w1 = {WEIGHTS1}>
{
  c = Conv <kernel_shape = [3, 3], strides = [4, 4], pads = [1, 1, 1, 1]> (image, w0)
  r = Relu(c)
  p = GlobalAveragePool(r)
  f = Flatten(p)
  logits = Gemm <transB = 1> (f, w1)
}"""
SCENARIO = ("--head", "raspberry-pi-4", "--tail", "nvidia-a100", "--link", "wifi")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Write a small classifier with seeded weights."""
    rng = np.random.default_rng(0)
    text = TEXT
    for name, count in (("WEIGHTS0", 216), ("WEIGHTS1", 80)):
        numbers = ", ".join(f"{x:.4f}" for x in rng.standard_normal(count))
        text = text.replace(f"{{{name}}}", f"{{{numbers}}}")
    path = tmp_path_factory.mktemp("model") / "net.onnx"
    onnx.save(onnx.parser.parse_model(text), path)
    return str(path)


def printed(capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> str:
    assert main(list(argv)) == code, capsys.readouterr()
    return capsys.readouterr().out


def test_every_command_has_a_help_with_an_example(capsys: pytest.CaptureFixture[str]) -> None:
    for name in COMMANDS:
        text = printed(capsys, name, "--help")
        assert f"Example:\n    splitc {name}" in text, name


def test_inspect(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(capsys, "inspect", model, "--json"))
    assert [node["op"] for node in found["nodes"]] == [
        "Conv",
        "Relu",
        "GlobalAveragePool",
        "Flatten",
        "Gemm",
    ]
    assert found["totals"]["macs"] == 8 * 3 * 9 * 16 + 80
    assert found["totals"]["weight_bytes"] == 4 * (216 + 80)
    assert found["refused"] == {}
    assert found == json.loads(json.dumps(splitc.inspect(model).to_json()))
    shown = printed(capsys, "inspect", model)
    assert "3,456" in shown
    assert "input image: float32[batch, 3, 16, 16]\noutput logits: float32[batch, 10]\n" in shown


def test_cuts(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(capsys, "cuts", model, "--json"))
    assert found == splitc.cuts(model).to_json()
    rows = {",".join(row["tensors"]): row for row in found["cuts"]}
    assert list(rows) == ["image", "c", "r", "p", "f", ""]
    assert rows["c"] == {
        "kind": "inner",
        "tensors": ["c"],
        "bytes": 512,
        "head_macs": 3456,
        "head_mac_share": 3456 / 3536,
        "natural_bottleneck": True,
        "breaks_group": True,
    }
    assert rows["image"]["kind"] == "input"
    assert rows[""]["kind"] == "output"
    assert "@input" in printed(capsys, "cuts", model)


def test_plan(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = json.loads(printed(capsys, "plan", model, *SCENARIO, "--json"))
    assert set(found) == {"objective", "chosen", "ranked", "certificate"}
    assert set(found["certificate"]) == {"method", "optimum", "bound", "gap"}
    keys = {
        *("kind", "tensors", "emittable", "wire_bytes", "return_bytes", "latency_s", "energy_j"),
        *("head_weight_bytes", "head_peak_bytes", "tail_weight_bytes", "tail_peak_bytes"),
        "addends",
    }
    for entry in found["ranked"]:
        assert keys <= set(entry) <= {*keys, "codec", "breaks_group"}
        assert set(entry["energy_j"]) == {"compute", "radio", "idle", "device", "server"}
        assert sum(entry["addends"].values()) == pytest.approx(entry["latency_s"], rel=1e-12)
    assert "head_nodes" in found["chosen"]
    text = printed(capsys, "plan", model, *SCENARIO)
    assert "chosen (latency)" in text
    assert "everything on the server, input as u8" in text


def test_optimize(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "small.onnx"
    argv = ("optimize", model, "--passes", "simplify", "-o", str(out))
    assert main([*argv, "--print-after", "simplify", "--time-passes"]) == 0
    text, said = capsys.readouterr()
    assert text.endswith(f"wrote {out}\n")
    assert "file bytes" in text
    assert "GlobalAveragePool" in said
    assert "simplify: 5 -> " in said
    onnx.checker.check_model(str(out), full_check=True)
    made = json.loads(printed(capsys, *argv, "--json"))
    assert made["output"] == str(out)
    (step,) = made["passes"]
    assert (step["name"], step["options"], step["exact"]) == (
        "simplify",
        {"fuse_batch_norm": True},
        True,
    )
    assert {step[key] for key in ("metric_before", "metric_after", "samples")} == {None}
    for size in (made["before"], made["after"]):
        assert set(size) == {"macs", "int8_mac_share", "weight_bytes", "file_bytes", "nodes"}
    assert made["after"]["file_bytes"] == out.stat().st_size


def test_the_main_job(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bundle = str(tmp_path / "bundle")
    made = json.loads(
        printed(capsys, "compile", model, *SCENARIO, "--cut", "r", "-o", bundle, "--json")
    )
    assert made["ok"] is True
    assert made["bundle"] == bundle
    assert made["plan"]["tensors"] == ["r"]
    assert {check["status"] for check in made["checks"]} == {"pass"}
    report = json.loads(printed(capsys, "verify", bundle, "--model", model, "--json"))
    assert report["ok"] is True
    assert set(report) == {"ok", "bundle", "plan", "checks"}
    assert set(report["checks"][0]) == {"name", "status", "worst_error", "tolerance", "detail"}
    image = np.random.default_rng(1).standard_normal((1, 3, 16, 16)).astype(np.float32)
    np.savez(tmp_path / "x.npz", image=image)
    printed(
        capsys, "run", bundle, "--input", str(tmp_path / "x.npz"), "-o", str(tmp_path / "y.npz")
    )
    (whole,) = ReferenceEvaluator(model).run(None, {"image": image})
    assert isinstance(whole, np.ndarray)
    with np.load(tmp_path / "y.npz") as made_here:
        assert made_here.files == ["logits"]
        np.testing.assert_allclose(made_here["logits"], whole, rtol=0, atol=1e-5 * abs(whole).max())


def test_a_wrong_bundle_is_exit_3(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bundle = tmp_path / "bundle"
    printed(capsys, "compile", model, *SCENARIO, "--cut", "r", "-o", str(bundle))
    (bundle / "tail" / "model.onnx").write_bytes(b"something else")
    said = json.loads(printed(capsys, "verify", str(bundle), "--json", code=3))
    assert said["ok"] is False
    assert said["where"] == "tail/model.onnx"


def test_what_a_dry_run_prints_runs_back(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = (
        *SCENARIO,
        "--rate",
        "20Mbit/s/50Mbit/s",
        "--rtt",
        "3ms",
        "--input",
        "image=2x3x16x16",
    )
    text = printed(capsys, "plan", model, *options, "--dry-run")
    table = tomllib.loads(text)
    assert table["rate"] == "20Mbit/s/50Mbit/s"
    assert table["input"] == ["image=2x3x16x16"]
    assert table["passes"] == "simplify"
    config = tmp_path / "ci.toml"
    config.write_text(text)
    assert printed(capsys, "plan", "--config", str(config), "--dry-run") == text
    again = printed(capsys, "plan", "--config", str(config), "--json")
    assert again == printed(capsys, "plan", model, *options, "--json")
    other = printed(capsys, "plan", "--config", str(config), "--rtt", "9ms", "--dry-run")
    assert tomllib.loads(other)["rtt"] == "9ms"


@pytest.mark.parametrize(
    ("argv", "code", "message"),
    [
        (
            ["--passes", "simplify,symplify"],
            1,
            "error: unknown pass 'symplify'\n"
            "   at: simplify,symplify\n"
            "                ^\n"
            " hint: did you mean 'simplify'?\n",
        ),
        (
            ["--passes", "simplify{level = 2}"],
            1,
            "error: 'simplify' has no option 'level'\n"
            "   at: simplify{level = 2}\n"
            "       ^\n"
            " hint: known names: fuse_batch_norm\n",
        ),
        (
            ["--cut", "rr"],
            1,
            "error: no tensor called 'rr' can be cut\n   at: --cut rr\n hint: did you mean 'r'?\n",
        ),
        (
            ["--rate", "20Mbps"],
            1,
            "error: cannot read the rate '20Mbps'\n hint: --rate 20Mbit/s[/50Mbit/s]\n",
        ),
        (
            ["--head", "raspberry-pi-44"],
            1,
            "error: unknown device 'raspberry-pi-44'\n"
            " hint: did you mean 'raspberry-pi-4'? ('splitc devices' lists them)\n",
        ),
        (["--objective", "size"], 2, None),
        (["--cut"], 2, None),
        (["--link", "lte", "--strict", "--rate", "10Gbit/s", "--rtt", "0s"], 4, None),
    ],
)
def test_errors_say_what_where_and_what_next(
    model: str, argv: list[str], code: int, message: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", model, *SCENARIO, *argv]) == code
    out, said = capsys.readouterr()
    assert out == ""
    assert said == message if message is not None else said


def test_errors_are_json_too(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "nothing.onnx", *SCENARIO, "--json"]) == 1
    out, said = capsys.readouterr()
    assert json.loads(out)["ok"] is False
    assert "nothing.onnx" in said


@pytest.mark.parametrize("kind", ["devices", "links"])
def test_profiles_are_printed_with_their_sources(
    kind: str, capsys: pytest.CaptureFixture[str]
) -> None:
    found = json.loads(printed(capsys, kind, "--json"))[kind]
    for profile in found:
        text = printed(capsys, kind, profile["name"])
        assert text.startswith(f"{profile['name']}: ")
        assert "source" in text
        one = json.loads(printed(capsys, kind, profile["name"], "--json"))
        assert one == profile


def test_passes_and_backends(capsys: pytest.CaptureFixture[str]) -> None:
    passes = json.loads(printed(capsys, "passes", "--json"))["passes"]
    (quantize,) = (row for row in passes if row["name"] == "quantize")
    assert (quantize["options"]["mixed"], quantize["options"]["nodes"]) == (False, [])
    assert "bias_correction = true, mixed = false" in " ".join(printed(capsys, "passes").split())
    backends = json.loads(printed(capsys, "backends", "--json"))["backends"]
    assert {"name": "onnxruntime", "available": True, "reason": "", "hint": ""} in backends


def test_an_unknown_command_has_a_hint(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["complie"]) == 2
    assert "did you mean 'compile'?" in capsys.readouterr().err


def test_an_output_that_cannot_be_written_is_refused_first(
    model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    where = str(tmp_path / "none" / "out.onnx")
    assert main(["optimize", model, "--passes", "simplify", "-o", where]) == 1
    assert main(["profile", "-o", str(tmp_path)]) == 1
    said = capsys.readouterr().err
    assert "the folder of the output does not exist" in said
    assert "the output is a folder" in said
    (tmp_path / "file").write_text("not a folder")
    assert main(["compile", model, *SCENARIO, "-o", str(tmp_path / "file" / "bundle")]) == 1
    assert str(tmp_path / "file") in capsys.readouterr().err
