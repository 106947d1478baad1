"""The backend `tensorrt-rtx`: real engines for RTX-class GPUs, built here without a GPU.

The same segment gives the same engine, byte for byte. TensorRT-RTX finishes its kernels on the
device when the engine is loaded there. It has no sm_90: H100 and H200 are refused.
"""

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from splitc.backend import Artifact, Refusals, Session, Target
from splitc.backends.tensorrt import child, cuda, recipe, refusals
from splitc.backends.tensorrt.child import RTX
from splitc.errors import BackendError

if TYPE_CHECKING:
    from splitc.model import Model

ENGINE = "engine.rtx"
if RTX.missing():  # then there is no such backend: the reason, and the command that installs it
    raise ModuleNotFoundError("TensorRT-RTX is not installed", name=RTX.modules[-1])


@dataclass(frozen=True)
class TensorRTRTX:
    """Engines of TensorRT-RTX. The field is for tests: a GPU to find."""

    name: ClassVar[str] = "tensorrt-rtx"
    rules: ClassVar[str] = "tensorrt"
    machine: cuda.Machine = field(default_factory=cuda.Driver)

    def supports(self, segment: "Model", target: Target) -> Refusals:
        """Refuse what the parser is known to refuse; all of it for a GPU it does not build for."""
        if why := unfit(target):
            return dict.fromkeys(segment.nodes, why)
        return refusals.refused(segment, rtx=True)

    def examine(self, segment: "Model", target: Target) -> tuple[Refusals, tuple[str, ...]]:
        """Refuse what the table and the real parser and builder refuse: (those, notes)."""
        known = self.supports(segment, target)
        if unfit(target):
            return known, ()
        from splitc.backends.tensorrt import judge

        found = judge.examine(segment, known, target.compute_capability)
        return found, (f"asked TensorRT-RTX {child.version(RTX)}",)

    def compile(self, segment: "Model", target: Target) -> Artifact:
        """Build the engine; `BackendError` names the node that is refused."""
        if why := unfit(target) or _unnamed(target):
            raise BackendError(why, where=f"target {target.name!r}")
        refusals.check(self.name, self.supports(segment, target))
        from splitc.backends.tensorrt import judge

        verdict = judge.judge(segment, target.compute_capability)
        refusals.check(self.name, verdict.refused)
        outcome = verdict.outcome
        assert outcome.engine is not None  # nothing was refused
        facts: dict[str, str | int] = {
            "compiler": "TensorRT-RTX",
            "compiler_version": outcome.version,
            "compute_capability": target.compute_capability,
            "triple": "x86_64-linux-gnu",
            "runtime": f"TensorRT-RTX {outcome.version}, NVIDIA driver",
            "precision": recipe.precision(segment),
            "reproducible": int(outcome.reproducible),
            "profile": _shown(recipe.profile(segment)),
            **{f"{what}_memory_bytes": size for what, size in sorted(outcome.memory.items())},
        }
        return Artifact(
            backend=self.name,
            format="tensorrt-rtx-engine",
            target=target,
            files={ENGINE: outcome.engine},
            facts={key: value for key, value in facts.items() if value != ""},
        )

    def runs_here(self, artifact: Artifact) -> str | None:
        """Return why not: no driver, no GPU, or another one than the engine is for."""
        gpu = self.machine.gpu()
        if isinstance(gpu, str):
            return gpu
        wanted = artifact.facts.get("compute_capability", gpu.compute_capability)
        if wanted != gpu.compute_capability:
            have = gpu.compute_capability
            return f"the engine is for compute capability {wanted}, this GPU has {have}"
        made, here = artifact.facts.get("compiler_version", ""), child.version(RTX)
        if made and made != here:
            return f"the engine was made by TensorRT-RTX {made}, {here} is here"
        return None

    def load(self, artifact: Artifact) -> Session:
        """Open the engine on the GPU."""
        if why := self.runs_here(artifact):
            raise BackendError(why)
        if artifact.folder is None:
            raise BackendError("an engine is loaded from its place in a bundle")
        from splitc.backends.tensorrt.engine import Engine

        return Engine((artifact.folder / ENGINE).read_bytes(), RTX)


def unfit(target: Target) -> str:
    """Return '' or why no engine for this target can be built; a target may leave things open."""
    from splitc.backends.tensorrt.judge import CAPABILITIES

    wanted = target.compute_capability
    if wanted and wanted not in CAPABILITIES:
        return (
            f"TensorRT-RTX does not build for compute capability {wanted}, "
            f"only for {', '.join(CAPABILITIES)}"
        )
    arch, _, system = target.triple.partition("-")
    if target.triple and not (arch == "x86_64" and "linux" in system):
        return f"TensorRT-RTX builds here for x86_64 Linux, not for {target.triple}"
    return ""


def _unnamed(target: Target) -> str:
    known = target.compute_capability
    return "" if known else "the device profile names no compute_capability to build for"


def _shown(profile: dict[str, recipe.Range]) -> str:
    """Write ranges as `--input` takes them."""
    return " ".join(
        f"{name}=" + "x".join(_ends(*ends) for ends in zip(r.min, r.opt, r.max, strict=True))
        for name, r in profile.items()
    )


def _ends(low: int, best: int, high: int) -> str:
    return str(best) if low == high else f"{low}..{best}..{high}"
