"""A backend: a device that knows a few operators, simulated by onnx's reference evaluator."""

import zlib
from typing import Any, ClassVar

import numpy as np
import onnx
import onnx_ir
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from splitc.backend import Artifact, Feeds, Refusals, Session, Target
from splitc.errors import BackendError
from splitc.model import Model

_KNOWN = {"Add", "Cast", "Constant", "Conv", "Gemm", "Identity", "MatMul", "Mul", "Relu", "Reshape"}
_MAGIC = b"ACME1\n"


class Acme:
    """Compiles to one file, ``program.acme``."""

    name: ClassVar[str] = "acme"

    def supports(self, segment: Model, target: Target) -> Refusals:
        """Refuse what the chip has no instruction for."""
        return {
            node.outputs[0].name or "": f"no instruction for operator {node.op_type!r}"
            for node in segment.ir.graph
            if node.op_type not in _KNOWN
        }

    def compile(self, segment: Model, target: Target) -> Artifact:
        """Write the program: the same segment always gives the same bytes."""
        for node, why in self.supports(segment, target).items():
            raise BackendError(f"acme: {why}", where=f"node {node!r}")
        plain = onnx_ir.to_proto(segment.ir).SerializeToString(deterministic=True)
        files = {"program.acme": _MAGIC + zlib.compress(plain)}
        return Artifact(backend=self.name, format="acme-1", target=target, files=files)

    def runs_here(self, artifact: Artifact) -> str | None:
        """Run everywhere: it is a simulator."""
        return None if artifact.format == "acme-1" else f"format {artifact.format!r} is too new"

    def load(self, artifact: Artifact) -> Session:
        """Read the program back from its folder, or from memory before it is written."""
        name = "program.acme"
        folder = artifact.folder
        data = artifact.files[name] if folder is None else (folder / name).read_bytes()
        if not data.startswith(_MAGIC):
            raise BackendError("this is not an acme program", where=name)
        chip = ReferenceEvaluator(onnx.load_from_string(zlib.decompress(data[len(_MAGIC) :])))

        def session(feeds: Feeds) -> dict[str, NDArray[Any]]:
            outputs = chip.run(None, dict(feeds))
            return {n: np.asarray(o) for n, o in zip(chip.output_names, outputs, strict=True)}

        return session
