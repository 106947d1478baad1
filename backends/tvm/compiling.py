"""From a segment to the artifact: prepare, build, link, describe."""

from collections.abc import Mapping
from pathlib import Path

import onnx_ir as ir

from splitc.backend import Artifact, Target
from splitc.backends.tvm import interface, versions
from splitc.backends.tvm.link import Linker, linker
from splitc.backends.tvm.machine import Machine, machine
from splitc.backends.tvm.prepare import prepare
from splitc.backends.tvm.relaxed import Built, build
from splitc.backends.tvm.schedule import FAST
from splitc.backends.tvm.session import DEVICE
from splitc.model import Model

RUNTIME = "libtvm_runtime.so (3 MB) and libtvm_ffi.so (2.4 MB) of apache-tvm and apache-tvm-ffi"
GLIBC = "2.28 (the runtime's wheels)"
NO_WHEELS = {
    "armv7": "libtvm_runtime.so and libtvm_ffi.so, built from TVM's source: nobody publishes them"
}


def compile_segment(
    segment: Model, target: Target, folder: Path, link: Linker | None = None
) -> Artifact:
    """Compile into files; `folder` is for intermediate ones, `link` overrules `linker`."""
    described = machine(target)
    link = link or linker(described)
    built = build(ir.to_proto(prepare(segment)), described)
    library = folder / "model.so"
    _export(built, library, link, folder)
    outputs = [tensor.name for tensor in segment.outputs]
    inputs = [tensor.name for tensor in segment.inputs]
    files = {
        "model.so": library.read_bytes(),
        "interface.txt": interface.write(inputs, outputs, segment.facts).encode(),
        "run.py": (DEVICE / "run.py").read_bytes(),
        "run.cc": (DEVICE / "run.cc").read_bytes(),
    }
    facts = _facts(segment, described, built, link, len(files["model.so"]))
    return Artifact("tvm", "tvm-vm", target, files, facts, _notes(facts))


def _notes(facts: Mapping[str, str | int]) -> tuple[str, ...]:
    """Say what is fixed or slow in the compiled form."""
    lines = []
    if facts["batch"] != "as given":
        lines.append(
            f"tvm: the machine code runs at {facts['batch']} only, the portable form at any"
        )
    if slow := str(facts["generic_kernels"]).split():
        more = f" and {len(slow) - 4} more" if slow[4:] else ""
        lines.append(
            f"tvm: {len(slow)} of {facts['kernels']} kernels have no schedule of their own: "
            + ", ".join(slow[:4])
            + more
        )
    return tuple(lines)


def _export(built: Built, library: Path, link: Linker, folder: Path) -> None:
    """Write TVM's objects and link them; its own default would take this machine's linker."""

    def compile_objects(output: str, objects: list[str], **options: object) -> None:
        del options
        link(Path(output), [Path(name) for name in objects])

    built.executable.export_library(
        str(library), fcompile=compile_objects, workspace_dir=str(folder)
    )


def _facts(
    segment: Model, described: Machine, built: Built, link: Linker, size: int
) -> dict[str, str | int]:
    slow = sorted(name for name, family in built.kernels.items() if family not in FAST)
    weights = segment.weight_bytes()
    return {
        "compiler": versions(),
        "linker": link.name,
        "triple": described.triple,
        "cpu": described.cpu,
        "simd": " ".join(described.instructions),
        "glibc": "the runtime's" if described.architecture in NO_WHEELS else GLIBC,
        "runtime": NO_WHEELS.get(described.architecture, RUNTIME),
        "batch": _batch(segment),
        "code_bytes": size,
        "scratch_bytes": built.scratch_bytes,
        "peak_bytes": 2 * weights + built.scratch_bytes,
        "kernels": len(built.kernels),
        "generic_kernels": " ".join(slow),
        "selftest": _selftest(segment),
        "threads": "all cores, or what the runner is told",
    }


def _selftest(segment: Model) -> str:
    """Return the kind of tolerance to be held to.

    "int8" where quantized values are computed with; "fp16" for half floats, and where integers are
    made for the wire alone, which may be a step off.
    """
    graph = segment.graph
    makers = [node for node in graph.nodes if node.op == "QuantizeLinear"]
    if any(graph.readers[node.outputs[0]] for node in makers):
        return "int8"
    half = any(fact.dtype == "float16" for fact in segment.facts.values())
    return "fp16" if half or makers else "tvm-fp32"


def _batch(segment: Model) -> str:
    """Return what symbolic sizes were frozen at, such as "N = 1"; "as given" where none was."""
    frozen = {
        str(size): segment.facts[tensor.name].shape[axis]
        for tensor in segment.inputs
        for axis, size in enumerate(tensor.shape)
        if isinstance(size, str)
    }
    return ", ".join(f"{name} = {size}" for name, size in frozen.items()) or "as given"
