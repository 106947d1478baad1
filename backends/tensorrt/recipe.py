"""The recipe: all that the target needs, beside the portable form, to build a TensorRT engine.

An engine holds for one version, one compute capability and one system, and two builds of it
differ; so the bundle carries this, and `splitc finish` builds where the engine will run.
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING

import msgspec

from splitc.errors import VerifyError

if TYPE_CHECKING:
    from splitc.model import Model

NAME = "recipe.json"
VERSION = 1
FIRST, BELOW = "10.12", "12"
"""The versions of TensorRT that the builder serves: strongly typed networks, one API."""

_Struct = msgspec.Struct


class Range(_Struct, frozen=True, forbid_unknown_fields=True):
    """Shapes of one dynamic input: least, the one that kernels are chosen for, largest."""

    min: tuple[int, ...]
    opt: tuple[int, ...]
    max: tuple[int, ...]


class Build(_Struct, frozen=True, forbid_unknown_fields=True):
    """Parameters of the build. `tf32`: float32 products are rounded to 10 bits of mantissa;
    `workspace_bytes`: most scratch memory, 0 = all there is."""  # noqa: D205, D209

    tf32: bool = True
    optimization_level: int = 3
    workspace_bytes: int = 0


class Holds(_Struct, frozen=True, forbid_unknown_fields=True):
    """Where the recipe may be built: for this GPU, with `first` ≤ version < `below`."""

    compute_capability: str
    first: str = FIRST
    below: str = BELOW


class Evidence(_Struct, frozen=True, forbid_unknown_fields=True):
    """What TensorRT-RTX's parser and builder made of the segment, without a GPU.

    `verdict`: builds, refused (then `refused`: node → why) or not-run (then `why`). `limits`: what
    the verdict does not say. `compute_capability`: the one that was built for.
    """

    verdict: str
    by: str = ""
    why: str = ""
    refused: dict[str, str] = msgspec.field(default_factory=dict)
    compute_capability: str = ""
    limits: tuple[str, ...] = ()


class SelfTest(_Struct, frozen=True, forbid_unknown_fields=True):
    """What to expect: the bundle's recorded samples, within the tolerance of this kind."""

    kind: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]


class Recipe(_Struct, frozen=True, forbid_unknown_fields=True):
    """``recipe.json``. `model`: file name of the portable form → SHA-256."""

    version: int
    model: dict[str, str]
    holds: Holds
    build: Build
    profile: dict[str, Range]
    precision: str
    selftest: SelfTest
    evidence: Evidence


def dumps(recipe: Recipe) -> bytes:
    """Return the text of a recipe: keys in order, indented, for people."""
    plain = msgspec.json.encode(recipe, order="sorted")
    return msgspec.json.format(plain, indent=1) + b"\n"


def loads(text: bytes) -> Recipe:
    """Read a recipe strictly; `VerifyError` says what is wrong with it."""
    try:
        recipe = msgspec.json.decode(text, type=Recipe)
    except msgspec.DecodeError as error:
        raise VerifyError(f"the recipe is malformed: {error}", where=NAME) from error
    if recipe.version != VERSION:
        raise VerifyError(
            f"recipe version {recipe.version} is unknown",
            where=NAME,
            hint=f"this splitc reads version {VERSION}; another release wrote it",
        )
    return recipe


def holds_for(recipe: Recipe, version: str, capability: str) -> str | None:
    """Return None, or why the recipe may not be built with this version for this GPU."""
    holds = recipe.holds
    if not numbers(holds.first) <= numbers(version) < numbers(holds.below):
        return f"TensorRT {version} is not in {holds.first} ≤ version < {holds.below}"
    if holds.compute_capability != capability:
        return (
            f"this GPU has compute capability {capability}, "
            f"the tail was planned for {holds.compute_capability}"
        )
    return None


def numbers(version: str) -> tuple[int, ...]:
    """Return "10.12.0.36" as numbers, to be compared."""
    return tuple(int(part) for part in re.findall(r"\d+", version))


def profile(segment: "Model") -> dict[str, Range]:
    """Return the range of each input with symbolic sizes: from `--input`, else 1 (the batch)."""
    sizes: dict[str, tuple[int, int, int]] = {}
    for tensor in segment.inputs:
        if spec := segment.specs.get(tensor.name):
            pairs = zip(tensor.shape, spec.dims, strict=True)
            sizes |= {dim: size for dim, size in pairs if isinstance(dim, str) and dim not in sizes}
    return {
        tensor.name: _range(tensor.shape, sizes)
        for tensor in segment.inputs
        if any(isinstance(dim, str) for dim in tensor.shape)
    }


def _range(shape: tuple[int | str, ...], sizes: Mapping[str, tuple[int, int, int]]) -> Range:
    ends = [(d, d, d) if isinstance(d, int) else sizes.get(d, (1, 1, 1)) for d in shape]
    return Range(*(tuple(end[place] for end in ends) for place in range(3)))


def precision(segment: "Model") -> str:
    """Return what the graph computes in: int8 where it quantizes, else fp16, bf16 or fp32."""
    types = {str(value.dtype) for value in segment.values.values() if value.dtype is not None}
    if any(node.op_type in ("QuantizeLinear", "DequantizeLinear") for node in segment.ir.graph):
        return "int8"
    return "fp16" if "FLOAT16" in types else "bf16" if "BFLOAT16" in types else "fp32"
