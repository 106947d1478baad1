"""What a manifest records: one frozen structure for each of its parts; unknown keys are refused."""

from typing import Any

import msgspec

from splitc.contract import Contract


class _Record(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A part of the manifest: unknown keys are refused."""


class FileRecord(_Record, frozen=True):
    """One file of the bundle; `sha256` in hex, `bytes` its length."""

    sha256: str
    bytes: int


class TensorRecord(_Record, frozen=True):
    """An input or output of the whole model; a symbolic size is its name, null takes any size."""

    name: str
    dtype: str
    shape: tuple[int | str | None, ...]


class Source(_Record, frozen=True):
    """What was compiled: the model's file name, and the fingerprint of the loaded graph."""

    model: str
    fingerprint: str


class GateRecord(_Record, frozen=True):
    """What all lossy passes cost together, on the same samples before and after.

    `drop`: in `unit`, positive where the optimized model is worse; `interval`: 95 % of it, by
    `method`. `ok` is null where no `max_drop` was asked for. `random`: no data, so no accuracy.
    """

    metric: str
    unit: str
    before: float | None
    after: float | None
    drop: float | None
    interval: tuple[float, float] | None
    method: str
    samples: int
    snr_db: float | None
    random: bool
    max_drop: float | None
    ok: bool | None


class Passes(_Record, frozen=True):
    """The pipeline as text, and the lines that loading and running it had for the user.

    `exact`: no pass of it (nor of `--wire`) may change what the model computes; if one may, `gate`
    says what it did. `resources`: what the passes were given (data, evaluation, recipe) → SHA-256.
    """

    text: str
    exact: bool = True
    notes: tuple[str, ...] = ()
    gate: GateRecord | None = None
    resources: dict[str, str] = {}


class ArtifactRecord(_Record, frozen=True):
    """What a backend made of a segment; `files` are bundle paths, none for the portable form.

    `facts`: what loading it needs and who made it (compiler, versions, triple, threads, memory).
    """

    backend: str
    format: str
    target: str
    files: tuple[str, ...] = ()
    facts: dict[str, str | int] = {}


class Segment(_Record, frozen=True):
    """One side. An empty side has `model` null, no nodes, no artifacts, and no files.

    `model`: bundle path of the portable form. `needs`, `gives`: the segment's own interface.
    """

    name: str
    tier: str
    needs: tuple[str, ...]
    gives: tuple[str, ...]
    model: str | None
    artifacts: tuple[ArtifactRecord, ...] = ()


class CheckRecord(_Record, frozen=True):
    """One check of `compile`'s own verification; errors are rounded up to one digit."""

    name: str
    status: str
    worst_error: float | None = None
    tolerance: float | None = None
    detail: str = ""


class Selftest(_Record, frozen=True):
    """Where recorded inputs, boundary tensors and expected outputs lie, and how near is right.

    `kind`: a key of the table of tolerances in `splitc.verify`; `tolerance`: its value.
    """

    samples: int
    inputs: str
    boundary: str
    outputs: str
    kind: str
    tolerance: float


class Manifest(_Record, frozen=True):
    """`manifest.json`. `plan` is the chosen entry of the ranking, as `splitc plan` prints it."""

    version: int
    splitc: str
    source: Source
    inputs: tuple[TensorRecord, ...]
    outputs: tuple[TensorRecord, ...]
    passes: Passes
    request: dict[str, Any]
    segments: tuple[Segment, ...]
    head_nodes: tuple[str, ...]
    contract: Contract
    plan: dict[str, Any]
    certificate: dict[str, Any]
    checks: tuple[CheckRecord, ...]
    selftest: Selftest
    libraries: dict[str, str]
    files: dict[str, FileRecord]
    digest: str = ""

    def segment(self, name: str) -> Segment:
        """Return the segment called `name`."""
        return next(segment for segment in self.segments if segment.name == name)
