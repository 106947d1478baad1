"""Text with units, as options take it: rates and times, to SI numbers."""

import math
import re

from splitc.errors import RequestError

_LARGEST = 1e18
"""Of a rate in bit/s and a time in s; the least rate is its inverse. Prices stay finite so."""

_RATES = {"bit/s": 1.0, "kbit/s": 1e3, "Mbit/s": 1e6, "Gbit/s": 1e9}
_TIMES = {"us": 1e-6, "ms": 1e-3, "s": 1.0}
_NUMBER = re.compile(r"\s*([0-9]*\.?[0-9]+(?:[eE][-+]?[0-9]+)?)\s*([A-Za-z/]+)\s*")
_RATE_PAIR = re.compile(r"(.*?[kMG]?bit/s)\s*(?:/(.*))?", re.DOTALL)


def parse_rate(text: str) -> tuple[float, float]:
    """Parse ``20Mbit/s`` (both directions) or ``20Mbit/s/50Mbit/s`` (up/down) to bit/s."""
    pair = _RATE_PAIR.fullmatch(text.strip())
    if pair is None:
        raise RequestError(f"cannot read the rate {text!r}", hint="--rate 20Mbit/s[/50Mbit/s]")
    up = _parse(pair[1], _RATES, f"rate {text!r}")
    down = _parse(pair[2], _RATES, f"rate {text!r}") if pair[2] is not None else up
    if min(up, down) < 1 / _LARGEST:
        raise RequestError(f"the rate {text!r} is not above zero")
    return up, down


def parse_time(text: str) -> float:
    """Parse ``5ms``, ``300us`` or ``0.2s`` to seconds."""
    return _parse(text, _TIMES, f"time {text!r}")


def _parse(text: str, units: dict[str, float], what: str) -> float:
    match = _NUMBER.fullmatch(text)
    value = float(match[1]) * units.get(match[2], math.inf) if match else math.inf
    if value > _LARGEST:
        raise RequestError(f"cannot read the {what}", hint=f"a number and {', '.join(units)}")
    return value


def si(value: float, unit: str) -> str:
    """Write a number with an SI prefix: 0.0123, 's' → '12.3 ms'."""
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}"
    for factor, prefix in ((1e9, "G"), (1e6, "M"), (1e3, "k"), (1.0, ""), (1e-3, "m"), (1e-6, "µ")):
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}{unit}"
    return f"{value / 1e-9:.3g} n{unit}"
