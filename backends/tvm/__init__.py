"""TVM: heads as machine code, for this or another architecture.

A segment becomes a shared library with its weights, which TVM's small runtime loads (3 MB and
2.4 MB of libraries, no compiler, no onnxruntime). Everything of TVM is imported when it is first
used; importing this package only asks whether it is there.
"""

from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, ClassVar

from splitc.backend import Artifact, Refusals, Session, Target
from splitc.backends.tvm.toolchain import INSTALL, tvm
from splitc.errors import BackendError

if TYPE_CHECKING:
    from splitc.model import Model


class Tvm:
    """Compiles a segment through Relax, with schedules of ours, and links it for the target."""

    name: ClassVar[str] = "tvm"

    def __init__(self) -> None:
        """Raise `BackendError` where apache-tvm is not installed."""
        for package, module in (("apache-tvm", "tvm"), ("apache-tvm-ffi", "tvm_ffi")):
            if find_spec(module) is None:
                raise BackendError(f"backend 'tvm' needs {package}", where=module, hint=INSTALL)

    def supports(self, segment: "Model", target: Target) -> Refusals:
        """Refuse what the importer lacks and is not lowered first; sizes must be fixed."""
        del target
        tvm()
        from splitc.backends.tvm.operators import refusals

        return refusals(segment)

    def compile(self, segment: "Model", target: Target) -> Artifact:
        """Compile for the target's triple, cpu and features; the batch is frozen.

        `facts` names the batch, the compiler, the linker, the runtime needed, planned memory, and
        the kernels that no schedule of ours took.
        """
        if refused := self.supports(segment, target):
            node, why = next(iter(refused.items()))
            more = f" ({len(refused)} nodes are refused)" if len(refused) > 1 else ""
            raise BackendError(f"tvm cannot take {why}{more}", where=f"node {node!r}")
        from splitc.backends.tvm.compiling import compile_segment

        with TemporaryDirectory(prefix="splitc-") as folder:
            return compile_segment(segment, target, Path(folder))

    def runs_here(self, artifact: Artifact) -> str | None:
        """Return None where the code is native or an emulator is set up, else what is missing."""
        from splitc.backends.tvm.session import why_not

        return why_not(artifact)

    def load(self, artifact: Artifact) -> Session:
        """Open the artifact from its folder, natively or under emulation."""
        from splitc.backends.tvm.session import open_session

        return open_session(artifact)


def versions() -> str:
    """Return the compiler's name and version as the manifest records it."""
    return f"apache-tvm {version('apache-tvm')}"
