"""Read the signatures of TensorRT's Python module, for `tests/tensorrt_api.json`.

    python tests/tensorrt_signatures.py tensorrt > one.json

Import is all that is needed: no GPU, and where the libraries of NVIDIA are missing, empty ones
that define what the module's `.so` lacks do. So the file was made from tensorrt-cu12-bindings
10.16.1.11 and tensorrt-cu13-bindings 11.4.0.106; TensorRT-RTX is read by the test itself.
"""

import inspect
import json
import re
import sys
from collections.abc import Iterator
from importlib import import_module
from types import ModuleType
from typing import Any

from splitc.backends.tensorrt import api

CLASSES = {
    "Builder": api.Builder,
    "INetworkDefinition": api.Network,
    "ITensor": api.Tensor,
    "OnnxParser": api.Parser,
    "ParserError": api.ParserError,
    "IBuilderConfig": api.Config,
    "IOptimizationProfile": api.Profile,
    "Runtime": api.Runtime,
    "ICudaEngine": api.Engine,
    "IExecutionContext": api.Context,
}
RTX_ONLY = frozenset(
    ("IBuilderConfig.num_compute_capabilities", "IBuilderConfig.set_compute_capability")
)


def methods(protocol: type) -> dict[str, list[str]]:
    """Return method → names of its parameters, of a protocol of ours."""
    found = inspect.getmembers(protocol, inspect.isfunction)
    return {
        name: list(inspect.signature(function).parameters)[1:]
        for name, function in found
        if not name.startswith("_")
    }


def attributes(protocol: type) -> list[str]:
    """Return the names of plain attributes of a protocol of ours."""
    return list(protocol.__annotations__)


def signatures(module: ModuleType) -> dict[str, Any]:
    """Return "Class.method" → parameter names of each overload; attributes have []."""
    found: dict[str, Any] = {}
    for name, protocol in CLASSES.items():
        real = getattr(module, name)
        for attribute in attributes(protocol):
            if hasattr(real, attribute):
                found[f"{name}.{attribute}"] = []
        for method in methods(protocol):
            if hasattr(real, method):
                found[f"{name}.{method}"] = list(_overloads(method, getattr(real, method).__doc__))
    return found


def _overloads(method: str, text: str) -> Iterator[list[str]]:
    """Yield parameter names from pybind11's docstring."""
    for line in text.splitlines():
        match = re.match(rf"(?:\d+\. )?{method}\(self: [\w.]+(.*)\) -> ", line.strip())
        if match:
            yield re.findall(r", (\w+): ", match[1])


if __name__ == "__main__":
    loaded = import_module(sys.argv[1])
    json.dump({loaded.__version__: signatures(loaded)}, sys.stdout, indent=1, sort_keys=True)
