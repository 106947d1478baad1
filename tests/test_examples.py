"""The examples do what their READMEs say: the demo is run once, and its claims derived again."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest

from splitc import scenario

ROOT = Path(__file__).resolve().parent.parent
CAMERA = ROOT / "examples" / "01_digits_camera"
ROW = re.compile(
    r"(?P<link>[\w-]+) +(?P<cut>@?\w+)(?P<jpeg>\*?) +(?P<latency>[\d.]+) = +(?P<head>[\d.]+)"
    r" \+ +(?P<wire>[\d.]+) \+ +(?P<tail>[\d.]+) +(?P<bytes>[\d,]+)"
    r" +(?P<second>@?\w+) +(?P<than>[\d.]+)"
)
WIRE = ("encode_s", "uplink_s", "rtt_s", "decode_s", "downlink_s")


@dataclass(frozen=True)
class Demo:
    """What the demo printed, and the folder it left."""

    printed: str
    folder: Path

    @cached_property
    def plans(self) -> dict[str, dict[str, Any]]:
        """Device → link → plan, as `splitc plan --json` prints it."""
        read: dict[str, dict[str, Any]] = json.loads(
            (self.folder / "plans.json").read_text("utf-8")
        )
        return read


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Demo:
    folder = tmp_path_factory.mktemp("demo")
    done = run(CAMERA / "demo.py", "--output", folder)
    return Demo(done, folder)


def run(*words: object) -> str:
    """Run this Python in the project's root, with nothing but the core; return its stdout."""
    argv = [sys.executable, *map(str, words)]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(text: str) -> dict[tuple[str, str], dict[str, str]]:
    """(device, link) → the row that the demo printed; a table is headed by its device."""
    found, device = {}, ""
    for line in text.splitlines():
        if line.strip() in DEVICES:
            device = line.strip()
        elif match := ROW.fullmatch(line.strip()):
            found[device, match["link"]] = match.groupdict()
    return found


DEVICES = {device.name for device in scenario.devices()}


def name(entry: dict[str, Any]) -> str:
    ends = {"input": "@input", "output": "@output"}
    return ends.get(entry["kind"]) or ",".join(entry["tensors"])


def test_every_link_and_two_devices_with_profiles_as_shipped(demo: Demo) -> None:
    links = {path.stem for path in (ROOT / "profiles" / "links").glob("*.toml")}
    assert len(demo.plans) >= 2
    assert demo.plans.keys() <= DEVICES
    assert all(set(plans) == links for plans in demo.plans.values())
    assert not list(CAMERA.rglob("*.toml"))


def test_winners_follow_from_the_addends(demo: Demo) -> None:
    for plans in demo.plans.values():
        for plan in plans.values():
            priced = {}
            for entry in plan["ranked"]:
                priced[id(entry)] = sum(entry["addends"].values())
                assert priced[id(entry)] == pytest.approx(entry["latency_s"], rel=1e-9)
            mine = [p for p in plan["ranked"] if p["emittable"] and not p.get("breaks_group")]
            best = min(mine, key=lambda p: priced[id(p)])
            assert name(best) == name(plan["chosen"])
            assert plan["certificate"]["optimum"] == pytest.approx(priced[id(best)], rel=1e-6)


def test_printed_rows_add_up_and_are_the_plans(demo: Demo) -> None:
    printed = rows(demo.printed)
    assert printed.keys() == {(d, k) for d, plans in demo.plans.items() for k in plans}
    for (device, link), row in printed.items():
        plan = demo.plans[device][link]
        chosen, addends = plan["chosen"], plan["chosen"]["addends"]
        latency, parts = (
            float(row["latency"]),
            [float(row[key]) for key in ("head", "wire", "tail")],
        )
        assert latency == pytest.approx(sum(parts), abs=0.02)
        assert latency == pytest.approx(1e3 * chosen["latency_s"], abs=0.006)
        assert parts[1] == pytest.approx(1e3 * sum(addends[key] for key in WIRE), abs=0.006)
        assert latency <= float(row["than"])
        assert (row["cut"], int(row["bytes"].replace(",", ""))) == (
            name(chosen),
            chosen["wire_bytes"],
        )
        assert bool(row["jpeg"]) == (not plan["ranked"][0]["emittable"])


def test_the_cut_changes_between_links_and_each_kind_wins_somewhere(demo: Demo) -> None:
    by_device = {d: [name(p["chosen"]) for p in plans.values()] for d, plans in demo.plans.items()}
    assert all(len(set(cuts)) >= 2 for cuts in by_device.values()), by_device
    kinds = {p["chosen"]["kind"] for plans in demo.plans.values() for p in plans.values()}
    assert kinds == {"inner", "input", "output"}
    differ = zip(*by_device.values(), strict=True)
    assert any(len(set(cuts)) > 1 for cuts in differ), "the devices agree on every link"


def test_the_command_line_gives_the_same_plan(demo: Demo) -> None:
    device, link = next(iter(demo.plans)), "wifi"
    model = CAMERA / "digits.onnx"
    scene = ("--head", device, "--tail", "nvidia-a100", "--link", link)
    plan = json.loads(run("-m", "splitc", "plan", model, *scene, "--json"))
    assert plan["chosen"] == demo.plans[device][link]["chosen"]


def test_the_network_reads(demo: Demo) -> None:
    found = re.search(r"([\d.]+)% ± [\d.]+% \(standard error\) of (\d+) digits", demo.printed)
    assert found is not None
    assert (float(found[1]) > 85, int(found[2])) == (True, 447)


def test_two_processes_from_their_own_side_alone(demo: Demo) -> None:
    assert not (demo.folder / "device" / "tail").exists()
    assert not (demo.folder / "server" / "head").exists()
    frames = np.load(demo.folder / "frames.npz")["frame"]
    session = ort.InferenceSession(CAMERA / "digits.onnx", providers=["CPUExecutionProvider"])
    (whole,) = session.run(None, {"frame": frames})
    answer = np.load(demo.folder / "answer.npz")["digits"]
    assert np.ptp(whole) > 1
    assert np.abs(answer - whole).max() <= 1e-5 * np.abs(whole).max()
    assert "the digits read are the same as by the whole" in " ".join(demo.printed.split())


def test_the_server_is_gone_and_the_halves_need_each_other(demo: Demo, tmp_path: Path) -> None:
    address = json.loads(next(x for x in demo.printed.splitlines() if x.startswith('{"host"')))
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address["host"], address["port"]), timeout=2)
    data, answer = demo.folder / "frames.npz", tmp_path / "y.npz"
    alone = ("splitc", "run", demo.folder / "device", "--input", data, "-o", answer)
    done = subprocess.run(
        [sys.executable, "-m", *alone], capture_output=True, text=True, timeout=60
    )
    assert (done.returncode != 0, "tail" in done.stderr) == (True, True), done.stderr


def test_the_readme_shows_what_the_demo_prints(demo: Demo) -> None:
    told = rows((CAMERA / "README.md").read_text("utf-8"))
    assert told.keys() == rows(demo.printed).keys()
    now = {where: (row["cut"], row["jpeg"]) for where, row in rows(demo.printed).items()}
    assert {w: (r["cut"], r["jpeg"]) for w, r in told.items()} == now, (
        "paste the demo's output anew"
    )


def test_the_commands_of_the_readme(demo: Demo, tmp_path: Path) -> None:
    """Each `splitc …` line of the README runs as it stands, in a copy without the demo's folder."""
    text = (CAMERA / "README.md").read_text("utf-8")
    lines = [
        line for block in re.findall(r"```sh\n(.*?)```", text, re.S) for line in block.splitlines()
    ]
    commands = [
        line.split("#")[0].split() for line in lines if line.startswith(".venv/bin/splitc ")
    ]
    assert commands
    shutil.copytree(CAMERA, tmp_path / "examples" / CAMERA.name)
    shutil.copytree(demo.folder, tmp_path / ".demo")
    for words in commands:
        argv = [sys.executable, "-m", "splitc", *words[1:]]
        done = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=120)
        assert done.returncode == 0, f"{words}\n{done.stderr}"


def test_the_demo_needs_the_core_alone() -> None:
    """Everything that the demo and the shipped network need is imported without torch."""
    code = (
        "import sys; sys.path.insert(0, 'examples/01_digits_camera'); sys.modules['torch'] = None;"
        "sys.modules['PIL'] = None; import demo; print(len(demo.frames.held_out_frames()[0]))"
    )
    assert run("-c", code).strip() == "56"


def test_frames_are_drawn_from_the_seed_and_hold_out(monkeypatch: pytest.MonkeyPatch) -> None:
    frames = imported("frames", monkeypatch)
    pixels, truth = frames.held_out_frames()
    again, _ = frames.held_out_frames()
    assert (pixels == again).all()
    assert (truth != frames.NOTHING).sum() == frames.HELD_OUT
    labels = frames.digits(held_out=True)[1]
    assert (np.sort(truth[truth != frames.NOTHING]) == np.sort(labels)).all()
    assert len(frames.digits(held_out=False)[0]) + frames.HELD_OUT == 1797


@pytest.mark.torch
def test_the_shipped_network_is_what_the_script_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An untrained export has the same nodes, names and shapes; one step of training runs."""
    torch = pytest.importorskip("torch")
    pytest.importorskip("PIL")
    torch.set_num_threads(1)
    train, network = imported("train", monkeypatch), imported("network", monkeypatch)
    made = network.DigitsCamera()
    train.train(made, steps=1)
    train.export(made.eval(), tmp_path / "fresh.onnx")
    fresh, shipped = (
        onnx.load(p / n) for p, n in ((tmp_path, "fresh.onnx"), (CAMERA, "digits.onnx"))
    )
    assert skeleton(fresh) == skeleton(shipped)
    assert weights(fresh) != weights(shipped)


def skeleton(model: onnx.ModelProto) -> list[object]:
    """Operators with their names, weights with their shapes, and the interface."""
    nodes = [(n.op_type, tuple(n.input), tuple(n.output)) for n in model.graph.node]
    held = sorted((w.name, tuple(w.dims)) for w in model.graph.initializer)
    ends = [str(value.type) + value.name for value in (*model.graph.input, *model.graph.output)]
    return [nodes, held, ends]


def weights(model: onnx.ModelProto) -> list[bytes]:
    return [w.raw_data for w in model.graph.initializer]


def imported(module: str, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Import a script of the example, as running it would."""
    monkeypatch.syspath_prepend(str(CAMERA))
    return __import__(module)


def test_shipped_files_hold_no_path_and_are_small() -> None:
    shipped = (CAMERA / "digits.onnx").read_bytes()
    assert len(shipped) < 1_500_000
    assert str(ROOT).encode() not in shipped
    assert os.sep.encode() + b"site-packages" not in shipped
    model = onnx.load_from_string(shipped)
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
