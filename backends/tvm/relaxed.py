"""ONNX → Relax → scheduled kernels → executable: the compiler's own pipeline, in order."""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import tvm
from tvm import relax
from tvm.relax.frontend.onnx import from_onnx

from splitc.backends.tvm.bounds import clipped
from splitc.backends.tvm.layout import channels_last
from splitc.backends.tvm.legalize import rules
from splitc.backends.tvm.machine import Machine
from splitc.backends.tvm.schedule import schedule
from splitc.errors import BackendError

if TYPE_CHECKING:
    import onnx


@dataclass(frozen=True)
class Built:
    """`kernels`: name → schedule family. `scratch_bytes`: planned activations."""

    executable: Any
    kernels: dict[str, str]
    scratch_bytes: int


def build(proto: "onnx.ModelProto", machine: Machine) -> Built:
    """Compile a prepared graph; raises `BackendError` with TVM's own words."""
    target = tvm.target.Target(machine.llvm())
    try:
        module = _imported(proto)
        with target, tvm.transform.PassContext(opt_level=3):
            module = _kernels(module, machine)
            module, kernels = schedule(module, machine)
            module = _planned(module)
            scratch = _scratch(module)
            executable = relax.build(module, target, relax_pipeline=None)
    except (
        RuntimeError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        IndexError,
        AssertionError,
    ) as error:
        raise BackendError(
            f"TVM {tvm.__version__} cannot compile the graph: {_last(error)}"
        ) from error
    return Built(executable, kernels, scratch)


def _imported(proto: "onnx.ModelProto") -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the ONNX checker has seen the graph before
        return from_onnx(proto, keep_params_in_input=False, sanitize_input_names=True)


def _kernels(module: Any, machine: Machine) -> Any:
    """Layout first, then our kernels, then fusion around them."""
    passes = relax.transform
    first = [
        passes.DecomposeOpsForInference(),
        passes.CanonicalizeBindings(),
        passes.FoldConstant(),
    ]
    module = tvm.transform.Sequential(first)(clipped(module))
    module = channels_last(module)
    own = rules(machine)
    then = [
        passes.CanonicalizeBindings(),
        passes.FoldConstant(),
        passes.LegalizeOps(own),
        passes.DeadCodeElimination(),
        passes.AnnotateTIROpPattern(),
        passes.FoldConstant(),
        passes.FuseOps(),
        passes.FuseTIR(),
        passes.DeadCodeElimination(),
    ]
    return tvm.transform.Sequential(then)(module)


def _planned(module: Any) -> Any:
    """Lower to the virtual machine's instructions, memory planned ahead."""
    passes = relax.transform
    return tvm.transform.Sequential(
        [
            relax.backend.DispatchSampling(),
            relax.backend.DispatchSortScan(),
            passes.LegalizeOps(),
            passes.RewriteDataflowReshape(),
            passes.ToNonDataflow(),
            passes.RemovePurityChecking(),
            passes.CallTIRRewrite(),
            passes.StaticPlanBlockMemory(),
            passes.LowerAllocTensor(),
            passes.KillAfterLastUse(),
            passes.LowerRuntimeBuiltin(),
            passes.ComputePrimValue(),
            passes.VMShapeLower(),
            passes.AttachGlobalSymbol(),
        ]
    )(module)


def _scratch(module: Any) -> int:
    """Sum the storages that the planned program allocates, in bytes."""
    total = 0

    def visit(node: Any) -> None:
        nonlocal total
        if isinstance(node, relax.Call) and node.op == _ALLOCATE:
            total += _shape_bytes(node)

    relax.analysis.post_order_visit(module["main"], visit)
    return total


_ALLOCATE = tvm.ir.Op.get("relax.vm.alloc_storage")


def _shape_bytes(call: Any) -> int:
    from math import prod

    sizes = [int(size) for size in call.args[0].values]
    return prod(sizes)


def _last(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:300]
