"""A Gather whose index is out of range reads the nearest element, not what lies beside the tensor.

    take(x, i, mode = "fast")   becomes   take(x, i, mode = "clip")

onnxruntime refuses such an index at run time; compiled code has nobody to tell.
"""

from typing import Any

import tvm
from tvm import relax
from tvm.relax.expr_functor import PyExprMutator, mutator

_TAKE = tvm.ir.Op.get("relax.take")


def clipped(module: Any) -> Any:
    """Return the module with every unchecked `take` replaced."""
    module["main"] = _Clipped(module).visit_expr(module["main"])
    return module


@mutator
class _Clipped(PyExprMutator):  # type: ignore[misc]
    def visit_call_(self, call: Any) -> Any:
        call = self.visit_expr_post_order(call)
        if call.op == _TAKE and call.attrs.mode == "fast":
            return relax.op.take(call.args[0], call.args[1], call.attrs.axis, "clip")
        return call
