"""What to remove: the options of the pass, as the modules of this room read them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class How:
    """Options; `splitc.passes.prune.Prune` documents and checks them."""

    ratio: float
    target: str = "macs"
    kind: str = "channels"
    importance: str = "energy"
    globally: bool = True
    repair: bool = True
    round_to: int = 1
