"""What to remove: the options of the pass `prune`, as the modules of this room read them."""

from dataclasses import dataclass


@dataclass(frozen=True)
class How:
    """Options of `splitc.passes.prune.Prune`, which adds where it works, and checks them all.

    `globally`: rank over the whole network; else each layer loses the same share. `repair`: refit
    the layers to the data. `round_to`: widths become multiples of it.
    """

    ratio: float = 0.3
    target: str = "macs"
    kind: str = "channels"
    importance: str = "energy"
    globally: bool = True
    repair: bool = True
    round_to: int = 1
