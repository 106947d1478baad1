"""Give every kernel of a module its schedule, and keep a list of who got which."""

from collections.abc import Callable
from typing import Any

from tvm import s_tir, tirx

from splitc.backends.tvm.kernels import conv, depthwise, generic, matmul
from splitc.backends.tvm.kernels.blocks import is_reduction, name, sblocks
from splitc.backends.tvm.machine import Machine

FAMILIES: dict[str, Callable[[Any, Any, Machine], None]] = {
    "conv": conv.schedule,
    "dwconv": depthwise.schedule,
    "dense": matmul.schedule,
    "bmm": matmul.schedule,
}
"""Name of a kernel's main block → its schedule."""

GENERIC, WALK, NONE = "generic", "walk", "unscheduled"
FAST = (*FAMILIES, WALK)
"""What is not listed as compiled without a schedule of its own."""


def schedule(module: Any, machine: Machine) -> tuple[Any, dict[str, str]]:
    """Schedule all kernels; return the module and kernel → the family that took it.

    "walk": no sum over an axis in it; "generic": reductions without a family of their own, which
    may be slow; "unscheduled": as TVM made it, on one thread and in scalar code, surely slow.
    """
    taken: dict[str, str] = {}
    scheduled = {}
    for key, function in module.functions_items():
        if isinstance(function, tirx.PrimFunc):
            made, family = _kernel(function, machine)
            taken[str(key.name_hint)] = family
            if made is not None:
                scheduled[key] = made.with_attr("tirx.is_scheduled", True)
    for key, function in scheduled.items():
        module[key] = function
    return module, taken


def _kernel(function: Any, machine: Machine) -> tuple[Any, str]:
    try:
        blocks = sblocks(sch := s_tir.Schedule(function))
    except (s_tir.ScheduleError, RuntimeError):  # no blocks: a library call, already low-level
        return None, NONE
    mains = [block for block in blocks if name(sch, block) in FAMILIES]
    if len(mains) == 1:
        family = name(sch, mains[0])
        try:
            FAMILIES[family](sch, mains[0], machine)
        except s_tir.ScheduleError:
            pass  # fused with something that this family does not expect
        else:
            return sch.mod["main"], family
    sch = s_tir.Schedule(function)
    family = GENERIC if any(is_reduction(sch, block) for block in sblocks(sch)) else WALK
    try:
        generic.schedule(sch, machine)
    except s_tir.ScheduleError:
        return None, NONE
    return sch.mod["main"], family
