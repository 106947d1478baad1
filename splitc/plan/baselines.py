"""The honest baselines: everything on the device, and everything on the server.

Sending the input costs what the input really is: raw floats as splitc's own `@input` cut sends
them, the 8-bit pixels behind them, or the JPEG that the camera makes. The last two are not what
splitc emits, and are ranked all the same: a cut that sends more than the photo is no gain.
"""

import dataclasses
import re
from collections.abc import Iterable, Iterator

from splitc.cost.price import Price, energy
from splitc.cost.table import CostTable
from splitc.errors import RequestError
from splitc.plan.entry import Entry
from splitc.wire.frame import record_bytes

JPEG_HEADER, JPEG_PER_PIXEL = 895.0, 0.8744
"""Bytes of a JPEG of H×W pixels: the line through CIFAR-10 (32×32: 1,790 B) and ImageNet
(224×224: 44,770 B), the per-sample sizes of reference `dataset_sizes.csv`."""


def input_codec(text: str | None) -> tuple[str, int | None] | None:
    """Parse `--input-codec f32|u8|jpeg:BYTES`; `RequestError` for anything else."""
    if text is None:
        return None
    name, colon, size = text.partition(":")
    if name in ("f32", "u8") and not colon:
        return name, None
    if name == "jpeg" and (not colon or re.fullmatch("0*[1-9][0-9]{0,17}", size)):
        return name, int(size) if colon else None
    raise RequestError(f"unknown input codec {text!r:.80}", hint="f32, u8 or jpeg:BYTES")


def image_inputs(table: CostTable) -> tuple[str, ...]:
    """Graph inputs that look like images: float, N×1|3×H×W, sides of at least 8."""
    facts = {name: table.model.facts.get(name) for name in table.graph.inputs}
    return tuple(
        name
        for name, fact in facts.items()
        if fact is not None
        and fact.dtype.startswith("float")
        and len(fact.shape) == 4
        and fact.shape[1] in (1, 3)
        and min(fact.shape[2:]) >= 8
    )


def guessed(table: CostTable, codec: str | None) -> bool:
    """Tell whether the size of a JPEG in the ranking is an estimate."""
    given = input_codec(codec)
    return bool(image_inputs(table)) and not (given and given[1])


def offloads(table: CostTable, entries: Iterable[Entry], codec: str | None) -> Iterator[Entry]:
    """Yield the baselines that send the input in another form than the raw `@input` cut.

    None where that cut is not among `entries`, or sends nothing. `codec`: the text of
    `--input-codec`, which names a form even for inputs that are no images.
    """
    given = input_codec(codec)
    named, size = given or (None, None)
    images = image_inputs(table)
    if named == "jpeg" and not images and size is None:
        raise RequestError(
            "no input looks like an image: how large its JPEG is must be given",
            where=f"--input-codec {codec}",
            hint="--input-codec jpeg:BYTES",
        )
    for whole in (e for e in entries if e.cut.kind == "input" and e.cut.tensors):
        for name in ("u8", "jpeg"):
            if chosen := images or (table.graph.inputs if named == name else ()):
                yield _resent(table, whole, name, chosen, size if named == name else None)


def _resent(
    table: CostTable, whole: Entry, codec: str, images: tuple[str, ...], size: int | None
) -> Entry:
    """Price the same cut with the images as u8 or JPEG; decoding is one pass over the tensor."""
    facts, wire = table.model.facts, table.wire
    sent = wire.frame_bytes
    for name in whole.cut.tensors:
        shape = facts[name].shape
        if name not in images:
            sent += wire.bytes[name]
        elif codec == "u8":
            sent += facts[name].elements + record_bytes(len(shape))
        else:
            sent += (size or jpeg_bytes(shape)) + record_bytes(len(shape))
    addends = {**whole.price.addends, "encode_s": 0.0, "uplink_s": sent * wire.up_s_per_byte}
    return Entry(
        whole.cut, repriced(table, whole.price, sent, addends), emittable=False, codec=codec
    )


def repriced(table: CostTable, price: Price, sent: int, addends: dict[str, float]) -> Price:
    """Return `price` with other bytes on the wire."""
    return dataclasses.replace(
        price,
        wire_bytes=sent,
        addends=addends,
        latency_s=sum(addends.values()),
        energy_j=energy(table, addends),
    )


def jpeg_bytes(shape: tuple[int, ...]) -> int:
    """Estimate the bytes of images of shape (N, C, H, W) as JPEG; grey counts half of colour."""
    count, channels, height, width = shape
    share = 1.0 if channels == 3 else 0.5
    return count * round(JPEG_HEADER + JPEG_PER_PIXEL * height * width * share)
