import re

import pytest

from splitc.errors import RequestError
from splitc.units import parse_rate, parse_time, si

RATES = {
    "20Mbit/s": (20e6, 20e6),
    "20Mbit/s/50Mbit/s": (20e6, 50e6),
    "1.5kbit/s": (1500.0, 1500.0),
    ".5Gbit/s / 250 bit/s": (0.5e9, 250.0),
    "1e3bit/s/2Mbit/s": (1e3, 2e6),
}
TIMES = {"5ms": 5e-3, "300us": 300e-6, "0.2s": 0.2, " 1.25 ms ": 1.25e-3, "0s": 0.0}
BAD_RATES = (
    "",
    "20",
    "20Mbit",
    "20MB/s",
    "0Mbit/s",
    "-3Mbit/s",
    "1Mbit/s/",
    "1Mbit/s/2",
    "xMbit/s",
    "1e-320bit/s",
    "1e308Gbit/s",
)
BAD_TIMES = ("", "5", "5 m", "-1ms", "1e999s", "1e308s", "ms", "5ms5")


@pytest.mark.parametrize(("text", "bits"), RATES.items())
def test_rates_are_bit_per_second_up_and_down(text: str, bits: tuple[float, float]) -> None:
    assert parse_rate(text) == pytest.approx(bits, rel=1e-12)


@pytest.mark.parametrize(("text", "seconds"), TIMES.items())
def test_times_are_seconds(text: str, seconds: float) -> None:
    assert parse_time(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize("text", BAD_RATES)
def test_a_rate_that_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(RequestError, match=re.escape(repr(text))):
        parse_rate(text)


@pytest.mark.parametrize("text", BAD_TIMES)
def test_a_time_that_cannot_be_read_is_named(text: str) -> None:
    with pytest.raises(RequestError, match=re.escape(repr(text))) as caught:
        parse_time(text)
    assert "ms" in caught.value.hint


SHOWN = {(0.0123, "s"): "12.3 ms", (0.0, "s"): "0 s", (2.5e9, "B"): "2.5 GB", (3e-9, "s"): "3 ns"}


@pytest.mark.parametrize(("value", "text"), SHOWN.items())
def test_numbers_are_shown_with_a_prefix(value: tuple[float, str], text: str) -> None:
    assert si(*value) == text
