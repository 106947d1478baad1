"""Build one ONNX file with TensorRT 10.12 to 11 or TensorRT-RTX 1, in a process of its own.

    python -m splitc.backends.tensorrt.builder ORDER.json REPORT.json

The order is `splitc.backends.tensorrt.child.Order` as JSON. The report is on the disk at every
moment: where this process crashes, it says at which stage and at which node. Networks are strongly
typed: precision is what the graph says, which is the only way in TensorRT 11 and works from 10.12.

TensorRT-RTX 1.7 names things by the order of their addresses, so an engine is the same from build
to build only while Linux does not randomise these: the process switches that off and starts over.
"""

import ctypes
import importlib
import json
import os
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from splitc.backends.tensorrt import api

MESSAGES = 40
"""How many error messages of TensorRT are kept: the first ones."""

_NO_RANDOMIZE = 0x0040000  # ADDR_NO_RANDOMIZE of <sys/personality.h>
_PARSING = re.compile(r"^(?:Static check for p|P)arsing node: (.*) \[(\w+)\]$")
_MEMORY = re.compile(r"Total (Activation|Weights) Memory: (\d+) bytes")


class Report:
    """What has happened so far, on the disk at once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._values: dict[str, Any] = {"messages": [], "refusals": [], "memory": {}}

    def note(self, **values: object) -> None:
        """Record values, in place of earlier ones."""
        self._values.update(values)
        fresh = self._path.with_suffix(".new")
        fresh.write_text(json.dumps(self._values))
        fresh.replace(self._path)

    def message(self, text: str) -> None:
        """Record an error message of TensorRT."""
        if len(self._values["messages"]) < MESSAGES:
            self.note(messages=[*self._values["messages"], text])

    def log(self, text: str) -> None:
        """Take from a chatty message what is worth keeping: the node in hand, sizes of memory."""
        if found := _PARSING.match(text):
            self.note(node=found[1], operator=found[2])
        elif found := _MEMORY.search(text):
            self.note(memory={**self._values["memory"], found[1].lower(): int(found[2])})


def logger(trt: api.TensorRT, report: Report) -> Any:
    """Return a logger whose errors go into the report."""

    class Logger(trt.ILogger):  # type: ignore[name-defined, misc]
        def __init__(self) -> None:
            super().__init__()

        def log(self, severity: Any, text: str) -> None:
            (report.message if int(severity) <= 1 else report.log)(text)  # 1: ERROR

    return Logger()


def run(order: Mapping[str, Any], report: Report) -> None:
    """Parse and build as ordered; the engine's bytes go to the file that the order names."""
    report.note(stage="import")
    trt = cast("api.TensorRT", importlib.import_module(order["module"]))
    report.note(version=trt.__version__, stage="start")
    if order["model"] is None:
        return
    log = logger(trt, report)
    builder = trt.Builder(log)
    network = builder.create_network(_flags(trt))
    parser = trt.OnnxParser(network, log)  # must live until the engine is built
    report.note(stage="parse")
    if not parser.parse_from_file(order["model"]) or parser.num_errors:
        report.note(refusals=[_refusal(parser.get_error(i)) for i in range(parser.num_errors)])
        return
    report.note(stage="build", node="", operator="")
    config = _config(trt, builder, network, order)
    plan = builder.build_serialized_network(network, config)
    if plan is not None:
        Path(order["engine"]).write_bytes(bytes(plan))
        report.note(stage="done")
    del parser


def _flags(trt: api.TensorRT) -> int:
    """Strongly typed: to be asked for in 10.x; deprecated, because always so, in 11."""
    flag = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    return 0 if flag is None else 1 << int(flag)


def _refusal(error: api.ParserError) -> dict[str, Any]:
    return {
        "index": error.node(),
        "name": error.node_name(),
        "operator": error.node_operator(),
        "why": error.desc(),
    }


def _config(
    trt: api.TensorRT, builder: api.Builder, network: api.Network, order: Mapping[str, Any]
) -> api.Config:
    config = builder.create_builder_config()
    config.builder_optimization_level = order["optimization_level"]
    (config.set_flag if order["tf32"] else config.clear_flag)(trt.BuilderFlag.TF32)
    if order["workspace_bytes"]:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, order["workspace_bytes"])
    if order["capability"]:  # TensorRT-RTX builds for other GPUs than the one that is here
        wanted = getattr(trt, "ComputeCapability").__members__["SM" + order["capability"]]  # noqa: B009
        config.num_compute_capabilities = 1
        if not config.set_compute_capability(wanted, 0):
            raise SystemExit(f"compute capability {order['capability']} is refused")
    if dynamic := _dynamic(network):
        profile = builder.create_optimization_profile()
        for name in dynamic:
            profile.set_shape(name, *_range(order, name))
        if config.add_optimization_profile(profile) < 0:
            raise SystemExit(f"the profile of {', '.join(dynamic)} is refused")
    return config


def _dynamic(network: api.Network) -> list[str]:
    inputs = [network.get_input(index) for index in range(network.num_inputs)]
    return [tensor.name for tensor in inputs if -1 in tuple(tensor.shape)]


def _range(order: Mapping[str, Any], name: str) -> Sequence[api.Shape]:
    if name not in order["profile"]:
        raise SystemExit(f"input {name!r} has dynamic sizes and no range")
    return [order["profile"][name][end] for end in ("min", "opt", "max")]


def fixed_addresses() -> bool:
    """Start this process over without address randomisation; False where that is not allowed.

    A container may forbid it: docker's default seccomp profile does. See personality(2).
    """
    if not sys.platform.startswith("linux"):
        return False
    personality = ctypes.CDLL(None, use_errno=True).personality
    now = personality(ctypes.c_ulong(0xFFFFFFFF))  # asks only
    if now != -1 and now & _NO_RANDOMIZE:
        return True
    if now == -1 or personality(ctypes.c_ulong(now | _NO_RANDOMIZE)) == -1:
        return False
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


if __name__ == "__main__":
    ordered = json.loads(Path(sys.argv[1]).read_text())
    fixed = ordered["reproducible"] and fixed_addresses()
    started = Report(Path(sys.argv[2]))
    started.note(fixed_addresses=fixed)
    run(ordered, started)
