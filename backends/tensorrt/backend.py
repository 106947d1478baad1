"""The backend `tensorrt`: a recipe that `splitc finish` builds on the target.

An engine of TensorRT needs the GPU that it is for, so none is built here. What can be known here
is: the table of what NVIDIA's parser refuses (`refusals.py`), and, where TensorRT-RTX is
installed, what the real parser and builder make of the segment; that stands in the recipe.
"""

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from splitc.backend import Artifact, Refusals, Session, Target
from splitc.backends.tensorrt import child, cuda, recipe, refusals
from splitc.backends.tensorrt.child import RTX, TENSORRT, Flavour, Order
from splitc.backends.tensorrt.recipe import Build, Evidence, Holds, Recipe, SelfTest
from splitc.errors import BackendError

if TYPE_CHECKING:
    from splitc.model import Model

ENGINE = "engine.plan"


@dataclass(frozen=True)
class TensorRT:
    """Recipes for TensorRT 10.12 to 11. The fields say what is here; tests say something else."""

    name: ClassVar[str] = "tensorrt"
    rules: ClassVar[str] = "tensorrt"
    flavour: Flavour = TENSORRT
    machine: cuda.Machine = field(default_factory=cuda.Driver)
    version: Callable[[Flavour], str] = child.version

    def supports(self, segment: "Model", target: Target) -> Refusals:
        """Refuse what NVIDIA's parser is known to refuse; the table is in `refusals.py`."""
        del target
        return refusals.refused(segment)

    def examine(self, segment: "Model", target: Target) -> tuple[Refusals, tuple[str, ...]]:
        """Refuse what the table, and the real parser and builder of TensorRT-RTX, refuse."""
        known = self.supports(segment, target)
        if missing := RTX.missing():
            return known, (f"asked the table of known refusals only: {missing}",)
        from splitc.backends.tensorrt import judge

        found = judge.examine(segment, known, target.compute_capability)
        lacking = sorted(n for n in found if segment.nodes[n].op_type in refusals.RTX_LACKS)
        notes = [f"asked TensorRT-RTX {child.version(RTX)}; {judge.LIMITS[0]}"]
        if lacking:
            notes.append(f"TensorRT-RTX cannot judge, but TensorRT takes: {', '.join(lacking)}")
        return {node: why for node, why in found.items() if node not in lacking}, tuple(notes)

    def compile(self, segment: "Model", target: Target) -> Artifact:
        """Write the recipe, with the verdict of TensorRT-RTX where that is installed."""
        if not target.compute_capability:
            raise BackendError(
                "the device profile names no compute_capability: it has no GPU of NVIDIA's",
                where=f"target {target.name!r}",
            )
        refusals.check(self.name, self.supports(segment, target))
        from splitc.backends.tensorrt import judge

        evidence = judge.evidence(segment, target.compute_capability)
        refusals.check(f"the parser ({evidence.by})", judge.certain(segment, evidence))
        made = Recipe(
            version=recipe.VERSION,
            model=_digests(segment),
            holds=Holds(compute_capability=target.compute_capability),
            build=Build(),
            profile=recipe.profile(segment),
            precision=recipe.precision(segment),
            selftest=_selftest(segment),
            evidence=evidence,
        )
        return Artifact(
            backend=self.name,
            format="tensorrt-recipe",
            target=target,
            files={recipe.NAME: recipe.dumps(made)},
            facts={**_facts(made), "weight_bytes": segment.weight_bytes()},
            notes=_notes(evidence),
        )

    def runs_here(self, artifact: Artifact) -> str | None:
        """Return why not: no GPU, not finished, or another GPU than that of the recipe."""
        gpu = self.machine.gpu()
        if isinstance(gpu, str):
            return gpu
        if missing := self.flavour.missing():
            return missing
        if artifact.folder is None or not (artifact.folder / ENGINE).is_file():
            return "there is no engine yet: run 'splitc finish BUNDLE' here"
        return recipe.holds_for(_read(artifact), self.version(self.flavour), gpu.compute_capability)

    def ready(self, artifact: Artifact) -> dict[str, str | int]:
        """Return the builder, its version and the GPU that are here.

        Raises `BackendError` with the reason where GPU, version or digest do not fit the recipe.
        """
        made = _read(artifact)
        gpu = self.machine.gpu()
        if isinstance(gpu, str):
            raise BackendError(f"no engine can be built here: {gpu}")
        self.flavour.module()
        version = self.version(self.flavour)
        if why := recipe.holds_for(made, version, gpu.compute_capability):
            raise BackendError(f"the recipe does not hold here: {why}", where=recipe.NAME)
        _portable(artifact, made)
        return {
            "compiler": self.flavour.name,
            "compiler_version": version,
            "gpu": gpu.name,
            "compute_capability": gpu.compute_capability,
            "driver": gpu.driver,
        }

    def finish(self, artifact: Artifact) -> dict[str, bytes]:
        """Build the engine of an artifact that has a place, for the GPU that is here."""
        facts, made = self.ready(artifact), _read(artifact)
        target = self.machine.building_for(str(facts["compute_capability"]))
        order = Order(made.profile, target, made.build)
        outcome = child.build(_portable(artifact, made), order, self.flavour)
        if outcome.engine is None:
            from splitc.backends.tensorrt import blame

            name = f"{self.flavour.name} {facts['compiler_version']}"
            raise BackendError(f"{name}, {blame.said(outcome)}", where=recipe.NAME)
        return {ENGINE: outcome.engine}

    def load(self, artifact: Artifact) -> Session:
        """Open the finished engine on the GPU."""
        if why := self.runs_here(artifact):
            raise BackendError(why)
        from splitc.backends.tensorrt.engine import Engine

        assert artifact.folder is not None  # `runs_here` saw the engine in it
        return Engine((artifact.folder / ENGINE).read_bytes(), self.flavour)


def _notes(evidence: Evidence) -> tuple[str, ...]:
    """Say where the real builder was not asked, or what it could not build."""
    if evidence.verdict == "not-run":
        return (f"tensorrt: asked the table of known refusals only: {evidence.why}",)
    refused = evidence.refused.items()
    return tuple(f"tensorrt: {evidence.by} cannot build {node}: {why}" for node, why in refused)


def _facts(made: Recipe) -> dict[str, str | int]:
    seen = made.evidence
    return {
        "compiler": "TensorRT, by splitc finish",
        "compute_capability": made.holds.compute_capability,
        "peak_bytes": "known once built: splitc finish tells",
        "runtime": f"TensorRT {made.holds.first} ≤ version < {made.holds.below}",
        "precision": made.precision,
        "tf32": int(made.build.tf32),
        "selftest": made.selftest.kind,
        "evidence": f"{seen.verdict}: {seen.by or seen.why}",
    }


def _selftest(segment: "Model") -> SelfTest:
    return SelfTest(
        kind=_kind(segment),
        inputs=tuple(tensor.name for tensor in segment.inputs),
        outputs=tuple(tensor.name for tensor in segment.outputs),
    )


def _kind(segment: "Model") -> str:
    """Return the kind of tolerance: steps add up where what was quantized is computed with."""
    graph = segment.graph
    steps = (node for node in graph.nodes if node.op == "QuantizeLinear")
    if any(graph.readers[node.outputs[0]] for node in steps):
        return "int8"
    return "tensorrt-fp32" if recipe.precision(segment) == "fp32" else "fp16"


def _digests(segment: "Model") -> dict[str, str]:
    """Return file name → SHA-256 of the portable form, as the bundle will hold it."""
    with tempfile.TemporaryDirectory(prefix="splitc-trt-") as name:
        segment.save(Path(name) / "model.onnx")
        return {path.name: _sha256(path) for path in sorted(Path(name).iterdir())}


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(artifact: Artifact) -> Recipe:
    if artifact.folder is None:
        raise BackendError("a recipe is read from its place in a bundle")
    return recipe.loads((artifact.folder / recipe.NAME).read_bytes())


def _portable(artifact: Artifact, made: Recipe) -> Path:
    """Return the portable form once its digests are those of the recipe."""
    if not isinstance(artifact.model, Path):
        raise BackendError("the portable form lies in a bundle")
    for name, digest in made.model.items():
        path = artifact.model.parent / name
        if name not in ("model.onnx", "model.onnx.data") or not path.is_file():
            raise BackendError(f"the recipe names {name!r}, which is not there", where=recipe.NAME)
        if _sha256(path) != digest:
            raise BackendError(
                "the portable form is not the one that the recipe is for",
                where=name,
                hint="copy the bundle again",
            )
    return artifact.model
