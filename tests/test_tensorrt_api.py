"""The protocols in `backends/tensorrt/api.py` against the real modules of TensorRT."""

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from splitc.backends.tensorrt.child import RTX

HERE = Path(__file__).resolve().parent
RECORDED = json.loads((HERE / "tensorrt_api.json").read_text())


def tool() -> ModuleType:
    """Return the module that reads signatures; tests are no package."""
    spec = importlib.util.spec_from_file_location("signatures", HERE / "tensorrt_signatures.py")
    assert spec is not None
    assert spec.loader is not None
    made = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(made)
    return made


def differences(real: dict[str, Any], *, rtx: bool) -> list[str]:
    """Return what we call and the real module does not have, or has with other parameters."""
    ours, found = tool(), []
    for name, protocol in ours.CLASSES.items():
        wanted = {f"{name}.{a}": None for a in ours.attributes(protocol)}
        wanted |= {f"{name}.{m}": p for m, p in ours.methods(protocol).items()}
        for key, parameters in wanted.items():
            if not rtx and key in ours.RTX_ONLY:
                continue
            if key not in real:
                found.append(f"{key} is missing")
            elif parameters is not None and not fits(parameters, real[key]):
                found.append(f"{key}{parameters} is {real[key]}")
    return found


def fits(ours: list[str], overloads: list[list[str]]) -> bool:
    return any(theirs[: len(ours)] == ours for theirs in overloads)


@pytest.mark.parametrize("version", RECORDED)
def test_tensorrt_has_what_we_call(version: str) -> None:
    assert differences(RECORDED[version], rtx=False) == []


def test_both_generations_are_recorded() -> None:
    assert [version.split(".")[0] for version in sorted(RECORDED)] == ["10", "11"]


def test_another_signature_is_seen() -> None:
    real = {**RECORDED["11.4.0.106"], "Builder.create_network": [["other"]]}
    del real["OnnxParser.parse_from_file"]
    assert differences(real, rtx=False) == [
        "Builder.create_network['flags'] is [['other']]",
        "OnnxParser.parse_from_file is missing",
    ]


def test_tensorrt_rtx_has_what_we_call() -> None:
    if missing := RTX.missing():
        pytest.skip(missing)
    loaded = importlib.import_module(RTX.module())
    assert differences(tool().signatures(loaded), rtx=True) == []
    for name in ("NetworkDefinitionCreationFlag", "BuilderFlag", "MemoryPoolType", "ILogger"):
        assert hasattr(loaded, name)
    assert sys.modules[RTX.module()] is loaded
