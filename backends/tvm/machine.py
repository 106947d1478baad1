"""The machine that code is made for: LLVM's name of it, and what the schedules must know."""

from dataclasses import dataclass
from typing import Any

from splitc.backend import Target
from splitc.errors import BackendError

ARCHITECTURES = ("aarch64", "x86_64", "armv7")
"""Those that there are schedules for; armv7 is compiled and linked only: nobody publishes TVM's
runtime for it, so nothing has run there."""

INSTRUCTIONS = {
    "x86_64": {
        **dict.fromkeys(("avx", "avx2", "fma", "f16c", "bmi2", "gfni")),
        **dict.fromkeys(("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")),
        "sse4.2": "sse4_2",
        "avx512vnni": "avx512_vnni",
        "avx512bf16": "avx512_bf16",
        "avx512fp16": "avx512_fp16",
        "avxvnni": "avx_vnni",
    },
    "aarch64": {
        "neon": "asimd",
        "dotprod": "asimddp",
        "fullfp16": "asimdhp",
        "lse": "atomics",
        **dict.fromkeys(("i8mm", "bf16", "sve")),
    },
    "armv7": {"neon": None, "vfp4": "vfpv4"},
}
"""Instruction sets that a processor may lack: LLVM's name → that in /proc/cpuinfo, None = same."""

FAST_MATH = ("reassoc", "contract", "arcp", "nsz")
"""Not `nnan` and `ninf`: attention masks hold infinities."""


@dataclass(frozen=True, slots=True)
class Machine:
    """`lanes`: float32 lanes of a SIMD register; `registers`: how many SIMD registers there are.

    `flags`: LLVM target features with their sign. `instructions`: those of `INSTRUCTIONS` that
    processor and flags bring, which the code may use. `scalar_operand`: whether a multiply-add
    takes one lane of a register as a factor (NEON does), so that a broadcast costs no load.
    """

    triple: str
    cpu: str
    flags: tuple[str, ...]
    instructions: tuple[str, ...]
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
        if self.triple.endswith("eabihf"):  # LLVM would mark the library as one of the other kind
            config["mfloat-abi"] = "hard"
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
    arch = architecture(target.triple)
    have = _features(target, flags)
    used = tuple(name for name in sorted(INSTRUCTIONS[arch]) if name in have)
    lanes, registers = _simd(arch, have)
    arm = arch != "x86_64"
    return Machine(target.triple, target.cpu or "generic", flags, used, lanes, registers, arm)


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


def _features(target: Target, flags: tuple[str, ...]) -> frozenset[str]:
    """Return all that LLVM takes this processor with these flags to have."""
    from tvm.target import Target as Llvm
    from tvm.target import codegen

    config: dict[str, Any] = {"kind": "llvm", "mtriple": target.triple}
    config |= {"mcpu": target.cpu} if target.cpu else {}
    named = Llvm(config | ({"mattr": list(flags)} if flags else {}))
    return frozenset(map(str, codegen.llvm_get_cpu_features(named)))


def _simd(arch: str, have: frozenset[str]) -> tuple[int, int]:
    """Return (float32 lanes, registers) of the widest SIMD unit there is."""
    if arch != "x86_64":
        return 4, (32 if arch == "aarch64" else 16)
    if "avx512f" in have:
        return 16, 32
    return (8 if "avx2" in have else 4), 16
