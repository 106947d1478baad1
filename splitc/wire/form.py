"""What `--wire` means: in which type floats cross, and which lossless codec packs them.

    raw          as they are                int8          as symmetric 8-bit integers
    zstd         packed                     int8+zstd     8-bit integers, packed

The type is graph: the head ends with a QuantizeLinear or a Cast, the tail begins with its inverse.
The codec runs outside both halves.
"""

from splitc import plugins
from splitc.errors import RequestError, WireError, did_you_mean
from splitc.wire import codec

NARROW = {"int8": "int8", "fp16": "float16"}
"""Word of `--wire` → the dtype that floats cross in."""

BYTES = {"int8": 1, "float16": 2}

FLOATS = {"int8": ("float32",), "float16": ("float32", "float64")}
"""dtype that floats cross in → those that are narrowed to it; the others cross as they are."""


def form(text: str) -> tuple[str | None, str]:
    """Return (dtype that floats cross in or None, codec); `WireError` for an unknown codec."""
    first, plus, second = text.partition("+")
    if first not in NARROW:
        _check(text)
        return None, text
    if plus and second in ("", *NARROW):
        raise RequestError(f"cannot read --wire {text!r}", hint=f"--wire {first}+zstd")
    _check(second or codec.Raw.name)
    return NARROW[first], second or codec.Raw.name


def _check(name: str) -> None:
    """Raise `WireError` unless there is a codec of this name that can be used."""
    known = plugins.lookup(codec.GROUP, codec.BUILT_IN, error=WireError)
    if name not in known:
        words = [*known, *NARROW, *(f"{word}+zstd" for word in NARROW)]
        raise WireError(f"unknown codec {name!r}", hint=did_you_mean(name.lower(), words))
    codec.get(name)
