"""Devices, links and scenarios: facts with units and a source. No formula lives here.

A profile is one TOML file whose keys are exactly the fields of `Device` or `Link`; its table
`sources` names where each number comes from, `estimated` the keys that are no published figure.
"""

import dataclasses
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from splitc import plugins
from splitc.errors import ProfileError, did_you_mean

GROUP = "splitc.profiles"
BUILT_IN = {"splitc": "splitc.profiles"}


@dataclass(frozen=True)
class Device:
    """One machine.

    `peak_gops`: dtype → peak 10⁹ operations/s (one multiply-accumulate is two). `efficiency`:
    operator family → share of the peak that a good kernel reaches. `overhead_us`: per fused group.
    `active_w`, `idle_w`: power while computing and while waiting. `error_band`: a prediction is
    right within this factor. `predictor`: fitted coefficients of `splitc profile`, family →
    (seconds per operation, per byte, per group); where there is one it replaces the roofline.
    """

    name: str
    summary: str
    tier: str
    triple: str
    cpu: str
    features: tuple[str, ...]
    compute_capability: str
    memory_bytes: int
    memory_bandwidth_gb_s: float
    peak_gops: Mapping[str, float]
    efficiency: Mapping[str, float]
    overhead_us: float
    active_w: float
    idle_w: float
    error_band: float
    sources: Mapping[str, str]
    estimated: tuple[str, ...]
    predictor: Mapping[str, tuple[float, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Link:
    """One wire. Rates are what the application sees in Mbit/s before packets and losses.

    `loss`: share of packets sent again (ARQ). `duty_cycle`: share of the time that may be used
    (LoRa's 1 %, a TDD uplink share) where the rate does not already hold it. Radio power of the
    device while sending, P[mW] = alpha · rate[Mbit/s] + beta.
    """

    name: str
    summary: str
    uplink_mbit_s: float
    downlink_mbit_s: float
    rtt_ms: float
    loss: float
    duty_cycle: float
    packet_payload_bytes: int
    packet_overhead_bytes: int
    alpha_mw_per_mbit_s: float
    beta_mw: float
    sources: Mapping[str, str]
    estimated: tuple[str, ...]


@dataclass(frozen=True)
class Scenario:
    """Two machines, the wire between them, and what is asked of them."""

    head: Device
    tail: Device
    link: Link
    objective: str = "latency"
    wire: str = "raw"

    @classmethod
    def of(
        cls,
        *,
        head: Device,
        tail: Device,
        link: Link,
        rate: tuple[float, float] | None = None,
        rtt: float | None = None,
        objective: str = "latency",
        wire: str = "raw",
    ) -> "Scenario":
        """Put a scenario together; `rate` (bit/s up, down) and `rtt` (s) replace the link's."""
        changed: dict[str, float] = {}
        if rate is not None:
            changed |= {"uplink_mbit_s": rate[0] / 1e6, "downlink_mbit_s": rate[1] / 1e6}
        if rtt is not None:
            changed["rtt_ms"] = rtt * 1e3
        return cls(head, tail, dataclasses.replace(link, **changed), objective, wire)  # type: ignore[arg-type]


Profile = TypeVar("Profile", Device, Link)


def device(name: str | Path) -> Device:
    """Return the device profile of that name, or read the TOML file at that path."""
    return _find(Device, "devices", name)


def link(name: str | Path) -> Link:
    """Return the link profile of that name, or read the TOML file at that path."""
    return _find(Link, "links", name)


def devices() -> list[Device]:
    """Return every device profile, by name."""
    return [_read(Device, text, name) for name, text in sorted(_shipped("devices").items())]


def links() -> list[Link]:
    """Return every link profile, slowest uplink first."""
    found = [_read(Link, text, name) for name, text in _shipped("links").items()]
    return sorted(found, key=lambda one: (one.uplink_mbit_s * one.duty_cycle, one.name))


def _find(kind: type[Profile], folder: str, name: str | Path) -> Profile:
    path = Path(name)
    if path.suffix == ".toml":
        try:
            return _read(kind, path.read_text("utf-8"), path.name)
        except (OSError, UnicodeDecodeError) as error:
            raise ProfileError(f"cannot read the profile: {error}", where=str(path)) from error
    shipped = _shipped(folder)
    if str(name) not in shipped:
        raise ProfileError(
            f"unknown {folder[:-1]} {str(name)!r}",
            hint=did_you_mean(str(name), shipped) + f" ('splitc {folder}' lists them)",
        )
    return _read(kind, shipped[str(name)], str(name))


def _shipped(folder: str) -> dict[str, str]:
    """Return profile name → TOML text, of splitc and of installed packages."""
    found: dict[str, str] = {}
    for _, target in plugins.lookup(GROUP, BUILT_IN, error=ProfileError).items():
        place = files(target.partition(":")[0]) / folder
        if place.is_dir():
            for entry in place.iterdir():
                if entry.name.endswith(".toml"):
                    found.setdefault(entry.name.removesuffix(".toml"), entry.read_text("utf-8"))
    return found


def _read(kind: type[Profile], text: str, where: str) -> Profile:
    try:
        table: dict[str, Any] = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ProfileError(f"not TOML: {error}", where=where) from error
    fields = {f.name: f for f in dataclasses.fields(kind)}
    optional = {"predictor"}
    for key in sorted((fields.keys() ^ table.keys()) - (optional - table.keys())):
        problem = "missing key" if key in fields else "unknown key"
        raise ProfileError(f"{problem} {key!r}", where=where, hint=did_you_mean(key, fields))
    checked = {key: _value(key, value, _type(fields[key].type), where) for key, value in table.items()}
    profile: Profile = kind(**checked)
    _check_sources(profile, where)
    return profile


def _type(annotation: object) -> str:
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _value(key: str, value: object, wanted: str, where: str) -> object:
    """Check one value against its field's type; numbers must be finite and not negative."""
    if "tuple[str" in wanted and isinstance(value, list):
        return tuple(map(str, value))
    if "Mapping" in wanted and isinstance(value, dict):
        return {k: tuple(v) if isinstance(v, list) else v for k, v in value.items()}
    if wanted == "str" and isinstance(value, str):
        return value
    if wanted in ("int", "float") and isinstance(value, int | float) and not isinstance(value, bool):
        if math.isfinite(value) and value >= 0:
            return int(value) if wanted == "int" else float(value)
    raise ProfileError(f"{key!r} has the value {value!r}, expected {wanted}", where=where)


def _check_sources(profile: Device | Link, where: str) -> None:
    numbers = {
        f.name
        for f in dataclasses.fields(profile)
        if not isinstance(getattr(profile, f.name), str | tuple)
    } - {"sources", "predictor"}
    for key in sorted(numbers - profile.sources.keys()):
        raise ProfileError(f"{key!r} has no source", where=where, hint=f"[sources] {key} = '…'")
    for key in sorted({*profile.sources, *profile.estimated} - {f.name for f in dataclasses.fields(profile)}):
        raise ProfileError(f"a source or estimate for the unknown key {key!r}", where=where)
    if isinstance(profile, Link) and not (
        profile.uplink_mbit_s > 0 < profile.downlink_mbit_s
        and 0 <= profile.loss < 1
        and 0 < profile.duty_cycle <= 1
        and profile.packet_payload_bytes > 0
    ):
        raise ProfileError("rates and payload must be above 0, loss below 1, duty in (0, 1]", where=where)
