"""What a tensor's trip costs: exact encoded bytes, and the seconds to encode, send and decode.

Under `--wire int8` or `fp16` a float that a node makes counts one or two bytes an element.

    seconds per byte = 8 / rate · (1 + overhead / payload) / (1 − loss) / duty

Packet headers, repeated packets (ARQ: each byte is sent 1/(1−p) times on average) and the share
of air time are linear in the bytes, so the price of a cut stays a sum over tensors.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from splitc.model import Model
from splitc.scenario import Link, Scenario
from splitc.wire import codec
from splitc.wire.form import BYTES, FLOATS, form
from splitc.wire.frame import fixed_bytes, record_bytes

_ZSTD_ENCODE, _ZSTD_DECODE = 162e6, 377e6
"""zstd level 1 on 8-bit feature maps, bytes/s of one x86 core at about 3 GHz (own measurement);
another machine is scaled by its memory bandwidth against `_REFERENCE_GB_S`."""

_REFERENCE_GB_S = 20.0
_SAMPLES = 2


@dataclass(frozen=True)
class WirePrices:
    """Per tensor that can cross: `bytes` encoded, with its record; `encode_s`, `decode_s`.

    `frame_bytes`: what a frame costs without tensors. `up_s_per_byte`, `down_s_per_byte`: seconds.
    `rtt_s`: paid once if anything is sent. `back_bytes`: graph output → bytes on its way back.
    """

    bytes: Mapping[str, int]
    encode_s: Mapping[str, float]
    decode_s: Mapping[str, float]
    back_bytes: Mapping[str, int]
    frame_bytes: int
    up_s_per_byte: float
    down_s_per_byte: float
    rtt_s: float
    note: str = ""


def seconds_per_byte(link: Link, mbit_s: float) -> float:
    """Return the seconds one byte of a frame takes at `mbit_s`, headers and repeats included."""
    headers = 1 + link.packet_overhead_bytes / link.packet_payload_bytes
    return 8 / (mbit_s * 1e6) * headers / (1 - link.loss) / link.duty_cycle


def wire_prices(model: Model, scenario: Scenario) -> WirePrices:
    """Price every tensor's trip. A size that depends on the data is measured on samples."""
    facts, link = model.facts, scenario.link
    plain = {t for t, fact in facts.items() if fact.dtype in codec.DTYPES}
    names = [t for t in model.graph.tensors if t in plain]
    narrow, packed = form(scenario.wire)
    shrunk = {t: _width(model, t, narrow) for t in names}
    payload = {t: facts[t].elements * shrunk[t] or facts[t].nbytes for t in names}
    note = ""
    if coded := packed != codec.Raw.name:
        payload, note = _measured(model, names, packed, {t: narrow for t in names if shrunk[t]})
    records = {t: record_bytes(len(facts[t].shape)) for t in names}
    raw = {t: facts[t].nbytes for t in plain}
    return WirePrices(
        bytes={t: payload[t] + records[t] for t in names},
        encode_s={
            t: raw[t] / _rate(scenario.head.memory_bandwidth_gb_s, coded, True) for t in names
        },
        decode_s={
            t: raw[t] / _rate(scenario.tail.memory_bandwidth_gb_s, coded, False) for t in names
        },
        back_bytes={
            o: raw[o] + record_bytes(len(facts[o].shape)) for o in model.graph.outputs if o in raw
        },
        frame_bytes=fixed_bytes(),
        up_s_per_byte=seconds_per_byte(link, link.uplink_mbit_s),
        down_s_per_byte=seconds_per_byte(link, link.downlink_mbit_s),
        rtt_s=link.rtt_ms / 1e3,
        note=note,
    )


def _rate(bandwidth_gb_s: float, coded: bool, encode: bool) -> float:
    """Bytes/s of a codec on a machine: raw is one copy; zstd scales with the memory."""
    if not coded:
        return bandwidth_gb_s * 1e9 / 2
    return (_ZSTD_ENCODE if encode else _ZSTD_DECODE) * min(bandwidth_gb_s / _REFERENCE_GB_S, 2.0)


def _width(model: Model, name: str, narrow: str | None) -> int:
    """Return the bytes an element has once it is narrowed; 0 for a tensor that crosses as it is.

    Narrowed is a float that a node makes: graph inputs cross as they are given.
    """
    made = narrow is not None and name in model.graph.producer
    return BYTES[narrow] if narrow and made and model.facts[name].dtype in FLOATS[narrow] else 0


def _as(values: NDArray[Any], narrow: str | None) -> NDArray[Any]:
    """Return values as they cross: as they are, cast, or on 255 steps over their range."""
    if narrow is None or narrow == "float16":
        return values if narrow is None else values.astype(np.float16)
    largest = float(np.max(np.abs(values), initial=0.0)) or 1.0
    return np.rint(values * (127 / largest)).astype(np.int8)


def _measured(
    model: Model, names: list[str], wire: str, narrow: Mapping[str, str | None]
) -> tuple[dict[str, int], str]:
    """Encode what the network makes of drawn inputs; the larger of the samples counts."""
    from splitc.execute import run, session
    from splitc.feeds import draw_samples

    chosen = codec.get(wire)
    made = [t for t in names if t in model.graph.producer]
    sizes = dict.fromkeys(names, 0)
    opened = session(model, outputs=made)
    for feeds in draw_samples(model, _SAMPLES):
        values = {**feeds, **run(opened, feeds, made, model.source)}
        for name in names:
            sent = _as(values[name], narrow.get(name))
            size = min(len(chosen.encode(sent)), sent.nbytes)
            sizes[name] = max(sizes[name], size)
    return sizes, f"sizes under {wire} are measured on {_SAMPLES} random inputs; real data differ"
