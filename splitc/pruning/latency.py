"""A share of the seconds is reached through a share of the MACs, by bisection on priced networks.

What a share of the MACs saves in time depends on the machine: overheads and traffic stay. So each
step prunes roughly (no repair, no training) and prices what is left.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING

from splitc.errors import PassError

if TYPE_CHECKING:
    from splitc.train import Recorder

LEAST, MOST = 0.02, 0.95
STEPS = 6
"""Bisections: the share is then known to 1.5 points."""


def macs_share(
    ratio: float, seconds: Callable[[float], float], whole: float, recorder: "Recorder | None"
) -> float:
    """Return the smallest share of the MACs tried whose network takes at most (1 − ratio) · whole.

    `seconds`: share of the MACs to remove → priced seconds of what is left; it may raise
    `PassError` where so much cannot go. Raises `PassError` where no share tried is enough.
    """
    low, high, found = LEAST, MOST, 0.0
    best, why = whole, ""
    for step in range(STEPS):
        if recorder is not None:
            recorder.progress(step, STEPS, "networks pruned and priced")
        middle = (low + high) / 2
        try:
            left = seconds(middle)
        except PassError as error:
            high, why = middle, str(error.args[0])
            continue
        best = min(best, left)
        if left <= (1 - ratio) * whole:
            high = found = middle
        else:
            low = middle
    if not found:
        reached = f"at most {1 - best / whole:.1%} of the priced seconds can go"
        raise PassError(f"prune: {reached}, not {ratio:.0%}", where=why, hint="a smaller ratio")
    return found
