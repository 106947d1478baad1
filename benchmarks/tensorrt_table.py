"""How well does the table of refusals know NVIDIA's parser? Every ONNX node test through both.

    python benchmarks/tensorrt_table.py [--show 20]

A graph of one node test is refused by the table (`backends/tensorrt/refusals.py`), by the parser
of TensorRT-RTX, by both or by neither. The parser is imported once and forked for each graph, so
that a crash takes nothing along. Parsed only, not built. Prints Markdown.
"""

import argparse
import collections
import json
import logging
import os
import signal
import tempfile
import warnings
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from splitc.backends.tensorrt import child, refusals
from splitc.backends.tensorrt.child import RTX
from splitc.model import Model

TIMEOUT_S = 60


def graphs() -> Iterator[tuple[str, onnx.ModelProto]]:
    """Yield every node test of the installed `onnx`."""
    from onnx.backend.test.case.node import collect_testcases

    for case in collect_testcases(None):
        if case.model is not None:
            yield case.name, case.model


def parsed(trt: Any, path: Path) -> str:
    """Return '' or why the parser refuses a file; it runs in a fork of this process."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        signal.alarm(TIMEOUT_S)
        os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
        os.dup2(2, 1)
        os.write(writing, json.dumps(_parse(trt, path)).encode()[:60000])
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading) as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return json.loads(said) if said else f"the parser died with {code}"


def _parse(trt: Any, path: Path) -> str:
    log = trt.Logger(trt.Logger.INTERNAL_ERROR)
    network = trt.Builder(log).create_network(1)
    parser = trt.OnnxParser(network, log)
    if parser.parse_from_file(str(path)):
        return ""
    first = parser.get_error(0)
    return f"{first.node_operator()}: {' '.join(first.desc().split())}"


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--show", type=int, default=15, help="disagreements to list")
    given = options.parse_args()
    if missing := RTX.missing():
        print(f"not run: {missing}")
        return
    logging.disable(logging.CRITICAL)
    warnings.filterwarnings("ignore", category=RuntimeWarning)
    counts: collections.Counter[tuple[bool, bool]] = collections.Counter()
    only: dict[bool, collections.Counter[str]] = {b: collections.Counter() for b in (True, False)}
    print(f"TensorRT-RTX {child.version(RTX)}, onnx {onnx.__version__}.\n")
    trt = import_module(RTX.module())
    with tempfile.TemporaryDirectory() as scratch:
        path = Path(scratch) / "node.onnx"
        for name, proto in graphs():
            onnx.save(proto, path)
            real = parsed(trt, path)
            ours = refusals.refused(Model(ir.from_proto(proto), name), rtx=True)
            counts[bool(ours), bool(real)] += 1
            if bool(ours) != bool(real):
                only[bool(ours)][(next(iter(ours.values())) if ours else real)[:110]] += 1
    print("| table | parser takes it | parser refuses it |\n|---|--:|--:|")
    for ours, label in ((False, "takes it"), (True, "refuses it")):
        print(f"| {label} | {counts[ours, False]} | {counts[ours, True]} |")
    for refused, title in ((False, "The parser alone refuses"), (True, "The table alone refuses")):
        print(f"\n{title}:\n")
        for why, count in only[refused].most_common(given.show):
            print(f"* {count} × {why}")


if __name__ == "__main__":
    main()
