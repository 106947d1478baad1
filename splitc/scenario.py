"""Devices, links and scenarios: facts with units and a source. No formula lives here.

A profile is one TOML file whose keys are exactly the fields of `Device` or `Link`; its table
`sources` names where each number comes from, `estimated` the keys that are no published figure.
"""

import dataclasses
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any, TypeVar

from splitc import plugins
from splitc.errors import ProfileError, did_you_mean

GROUP = "splitc.profiles"
_SANE = (1e-30, 1e21)
"""Numbers of a profile, 0 apart: beyond them products and quotients of a few leave the floats."""

BUILT_IN = {"splitc": "splitc.profiles"}


@dataclass(frozen=True)
class Device:
    """One machine.

    `peak_gops`: dtype → peak 10⁹ operations/s (one multiply-accumulate is two). `efficiency`:
    operator family → share of the peak that a good kernel reaches. `overhead_us`: per fused group.
    `active_w`, `idle_w`: power while computing and while waiting. `error_band`: a prediction is
    right within this factor. `predictor`: fitted coefficients of `splitc profile`, family →
    (seconds per operation, per byte, per group), 'call' → (0, 0, seconds per run of a side); where
    there is one it replaces the roofline.
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
    except (ValueError, RecursionError) as error:
        raise ProfileError(f"not TOML: {error}", where=where) from error
    types = {f.name: _type(f.type) for f in dataclasses.fields(kind)}
    missing = sorted(types.keys() - table.keys() - {"predictor"})
    for key in sorted(table.keys() - types.keys()):
        hint = did_you_mean(key, missing or types)
        raise ProfileError(f"unknown key {key!r}", where=where, hint=hint)
    for key in missing:
        raise ProfileError(f"missing key {key!r}", where=where, hint=f"{key} = … ({types[key]})")
    profile: Profile = kind(**{k: _value(k, v, types[k], where) for k, v in table.items()})
    _check_sources(profile, types, where)
    _check_link(profile, where) if isinstance(profile, Link) else _check_device(profile, where)
    return profile


def _type(annotation: object) -> str:
    named = annotation.__name__ if type(annotation) is type else str(annotation)
    return named.replace("collections.abc.", "")


def _value(key: str, value: Any, wanted: str, where: str) -> Any:
    """Check one value against its field's type; a number is 0 or within `_SANE`."""
    if wanted == "str" and isinstance(value, str):
        return value
    if wanted == "int" and _number(value) and float(value) == int(value):
        return int(value)
    if wanted == "float" and _number(value):
        return float(value)
    if wanted.startswith("tuple[str") and _all(value, list, lambda item: isinstance(item, str)):
        return tuple(value)
    if wanted.startswith("Mapping") and _all(value, dict, lambda item: _item(item, wanted)):
        return {k: tuple(map(float, v)) if isinstance(v, list) else v for k, v in value.items()}
    raise ProfileError(f"{key!r} has the value {value!r:.80}, expected {wanted}", where=where)


def _all(value: Any, shape: type, fits: Callable[[Any], bool]) -> bool:
    items = value.values() if isinstance(value, dict) else value
    return isinstance(value, shape) and all(map(fits, items))


def _number(value: Any) -> bool:
    plain = isinstance(value, int | float) and not isinstance(value, bool)
    return plain and (value == 0 or _SANE[0] <= value <= _SANE[1])


def _item(value: Any, wanted: str) -> bool:
    """Check one value of a table: a source, a number above zero, or a row of three numbers."""
    if "tuple" in wanted:
        return isinstance(value, list) and len(value) == 3 and all(map(_number, value))
    if "float" in wanted:
        return _number(value) and value > 0
    return isinstance(value, str) and bool(value.strip())


def _check_sources(profile: Device | Link, types: Mapping[str, str], where: str) -> None:
    numbers = {key for key, kind in types.items() if kind in ("int", "float") or "float]" in kind}
    for key in sorted(numbers - profile.sources.keys() - {"predictor"}):
        raise ProfileError(f"{key!r} has no source", where=where, hint=f"[sources] {key} = '…'")
    for key in sorted({*profile.sources, *profile.estimated} - types.keys()):
        hint = did_you_mean(key, types)
        raise ProfileError(
            f"a source or estimate for the unknown key {key!r}", where=where, hint=hint
        )


def _check_link(link: Link, where: str) -> None:
    if not (
        link.uplink_mbit_s > 0 < link.downlink_mbit_s
        and link.loss < 1
        and 0 < link.duty_cycle <= 1
        and link.packet_payload_bytes > 0
    ):
        raise ProfileError(
            "rates and payload must be above 0, loss below 1, duty_cycle in (0, 1]", where=where
        )


def _check_device(device: Device, where: str) -> None:
    """Refuse what the price list could not divide by or would not find."""
    wanted = {"peak_gops": "float32", "efficiency": "other"}
    wanted |= {"predictor": "other"} if device.predictor else {}
    for table, key in wanted.items():
        if key not in getattr(device, table):
            raise ProfileError(f"{table!r} has no entry {key!r}", where=where)
    if not (device.memory_bandwidth_gb_s > 0 and device.error_band >= 1):
        raise ProfileError("memory_bandwidth_gb_s must be above 0, error_band ≥ 1", where=where)
    if over := sorted(k for k, share in device.efficiency.items() if share > 1):
        raise ProfileError(f"efficiency of {over[0]!r} is above 1", where=where)
