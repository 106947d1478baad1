"""What a user asks for: one frozen value that `plan` and `compile` share.

The command line, a TOML file (`--config`) and the Python API all end in a `Request`; its fields
are the options' names with `-` written `_`, and hold text as typed, so it prints back as TOML.
"""

from dataclasses import dataclass
from pathlib import Path

from splitc.errors import RequestError
from splitc.scenario import Device, Link, Scenario
from splitc.scenario import device as find_device
from splitc.scenario import link as find_link
from splitc.units import parse_rate, parse_time


@dataclass(frozen=True)
class Request:
    """The options of `plan` and `compile`; see `splitc compile --help` for each."""

    head: str | Path | Device | None = None
    tail: str | Path | Device | None = None
    link: str | Path | Link | None = None
    rate: str | None = None
    rtt: str | None = None
    objective: str = "latency"
    cut: str = "auto"
    passes: str = "simplify"
    head_backend: str = "onnxruntime"
    tail_backend: str = "onnxruntime"
    wire: str = "raw"
    data: str | None = None
    eval: str | None = None
    preprocess: str | None = None
    metric: str | None = None
    max_drop: float | None = None
    train: str | None = None
    input: tuple[str, ...] = ()
    input_codec: str | None = None
    strict: bool = False
    max_tensors: int = 3
    top: int = 50

    def scenario(self) -> Scenario:
        """Resolve names to profiles; raises `RequestError` listing what is missing."""
        if self.objective not in ("latency", "energy"):
            raise RequestError(f"unknown objective {self.objective!r}", hint="latency or energy")
        given = {"--head": self.head, "--tail": self.tail, "--link": self.link}
        if missing := [name for name, value in given.items() if value is None]:
            raise RequestError(
                f"a plan needs {' and '.join(missing)}",
                hint="'splitc devices' and 'splitc links' list the profiles; --costs plans without",
            )
        return Scenario.of(
            head=self.head if isinstance(self.head, Device) else find_device(self.head or ""),
            tail=self.tail if isinstance(self.tail, Device) else find_device(self.tail or ""),
            link=self.link if isinstance(self.link, Link) else find_link(self.link or ""),
            rate=parse_rate(self.rate) if self.rate else None,
            rtt=parse_time(self.rtt) if self.rtt else None,
            objective=self.objective,
            wire=self.wire,
        )
