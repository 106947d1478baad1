"""The machine that code is made for: LLVM's name of it, and what the schedules must know."""

from dataclasses import dataclass
from typing import Any

from splitc.backend import Target
from splitc.errors import BackendError

ARCHITECTURES = ("aarch64", "x86_64", "armv7")
"""Those that are built and tested; armv7 is built, and tested as far as its code goes."""

FAST_MATH = ("reassoc", "contract", "arcp", "nsz")
"""Not `nnan` and `ninf`: attention masks hold infinities."""


@dataclass(frozen=True, slots=True)
class Machine:
    """`lanes`: float32 lanes of a SIMD register; `registers`: how many SIMD registers there are.

    `flags`: LLVM target features with their sign. `scalar_operand`: whether a multiply-add takes
    one lane of a register as a factor (NEON does), so that a broadcast costs no load of its own.
    """

    triple: str
    cpu: str
    flags: tuple[str, ...]
    lanes: int
    registers: int
    scalar_operand: bool

    @property
    def architecture(self) -> str:
        """First part of the triple, "armv7" for all of its spellings."""
        return architecture(self.triple)

    def llvm(self) -> dict[str, Any]:
        """Return the configuration of TVM's target."""
        config: dict[str, Any] = {"kind": "llvm", "mtriple": self.triple, "mcpu": self.cpu}
        if self.flags:
            config["mattr"] = list(self.flags)
        return config | {f"fast-math-{flag}": True for flag in FAST_MATH}


def architecture(triple: str) -> str:
    """Return "aarch64", "x86_64", "armv7", or the triple's own first part."""
    first = triple.partition("-")[0]
    return "armv7" if first.startswith("armv7") else first


def machine(target: Target) -> Machine:
    """Describe `target`; raises `BackendError` where its profile says too little."""
    where = f"device {target.name!r}"
    if not target.triple:
        raise BackendError(
            "the device profile names no triple to compile for", where=where, hint=_HINT
        )
    if architecture(target.triple) not in ARCHITECTURES:
        known = ", ".join(ARCHITECTURES)
        raise BackendError(f"no schedules for {target.triple!r} (there are: {known})", where=where)
    _check_cpu(target, where)
    flags = tuple(f if f[0] in "+-" else f"+{f}" for f in target.features)
    lanes, registers = _simd(target, flags)
    arm = architecture(target.triple) != "x86_64"
    return Machine(target.triple, target.cpu or "generic", flags, lanes, registers, arm)


_HINT = "its profile needs triple = …, cpu = … and features = [...], as LLVM spells them"


def _check_cpu(target: Target, where: str) -> None:
    """Refuse a name that LLVM does not know: it would warn, and compile for a baseline."""
    from tvm.target import codegen

    if target.cpu and not codegen.llvm_is_valid_cpu(target.cpu, target.triple):
        raise BackendError(
            f"LLVM knows no processor called {target.cpu!r} for {target.triple}",
            where=where,
            hint=_HINT,
        )


def _simd(target: Target, flags: tuple[str, ...]) -> tuple[int, int]:
    """Return (float32 lanes, registers) of the widest SIMD unit that the target names."""
    from tvm.target import Target as Llvm
    from tvm.target import codegen

    if architecture(target.triple) != "x86_64":
        return 4, (32 if architecture(target.triple) == "aarch64" else 16)
    config: dict[str, Any] = {"kind": "llvm", "mtriple": target.triple}
    config |= {"mcpu": target.cpu} if target.cpu else {}
    named = Llvm(config | ({"mattr": list(flags)} if flags else {}))
    if codegen.target_has_features(["avx512f"], named):
        return 16, 32
    return (8 if codegen.target_has_features(["avx2"], named) else 4), 16
