"""A network to compile, and `splitc compile` run in this process."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from splitc.cli import main

SCENARIO = ("--head", "raspberry-pi-4", "--tail", "nvidia-a100", "--link", "wifi")
TEXT = '<ir_version: 10, opset_import: ["": 21]>\n'

CHAIN = """net (float[N,8] x) => (float[N,2] y)
<float[8,4] a, float[4,2] b> { h = MatMul(x, a)  r = Relu(h)  z = MatMul(r, b)  y = Tanh(z) }"""


def write(folder: Path, text: str, name: str = "net.onnx") -> Path:
    """Write a model whose float weights, declared without values, are seeded normal."""
    rng = np.random.default_rng(0)
    found = re.search(r"<(float.*)>", text)
    model = onnx.parser.parse_model(TEXT + (text.replace(found[0], "") if found else text))
    for shape, label in re.findall(r"float\[([0-9,]+)\] (\w+)", found[1] if found else ""):
        drawn = rng.standard_normal([int(size) for size in shape.split(",")]).astype("f")
        model.graph.initializer.append(onnx.numpy_helper.from_array(drawn, label))
    (folder / name).write_bytes(model.SerializeToString())
    return folder / name


def compiled(capsys: pytest.CaptureFixture[str], *argv: object, code: int = 0) -> dict[str, Any]:
    """Run `splitc compile … --json` in this process and return what it prints."""
    capsys.readouterr()
    arguments = ["compile", *map(str, argv), *SCENARIO, "--json", "--progress", "none"]
    assert main(arguments) == code
    found: dict[str, Any] = json.loads(capsys.readouterr().out)
    return found


def statuses(found: Mapping[str, Any]) -> dict[str, str]:
    return {check["name"]: check["status"] for check in found["checks"]}
