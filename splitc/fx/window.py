"""The window that a convolution or a pool slides: kernel, strides, dilations and pads."""

from collections.abc import Sequence
from dataclasses import dataclass

from torch import fx
from torch.nn import functional

from splitc.fx import functions
from splitc.fx.site import Site


@dataclass(frozen=True)
class Window:
    """One size for each spatial axis. `pads`: (in front, behind); None: SAME, found at run time."""

    kernel: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...] | None
    upper: bool = True

    @property
    def even(self) -> bool:
        """Whether torch's own padding argument can say it."""
        return self.pads is not None and all(a == b for a, b in self.pads)

    @property
    def symmetric(self) -> tuple[int, ...]:
        """The padding argument: 0 where `padded` already did it."""
        return tuple(a if self.even else 0 for a, _ in self.pads or ((0, 0),) * len(self.kernel))

    @property
    def reversed_pads(self) -> list[int]:
        """The pads as `functional.pad` wants them: the last axis first."""
        return [size for pair in reversed(self.pads or ()) for size in pair]

    def padded(self, site: Site, x: fx.Node, value: float) -> fx.Node:
        """Return `x` padded by hand where torch's argument cannot say it."""
        if self.even:
            return x
        if self.pads is None:
            sizes = (self.kernel, self.strides, self.dilations)
            return site.call(functions.same_pad, x, *sizes, self.upper, value)
        return site.call(functional.pad, x, self.reversed_pads, "constant", value)


def window(site: Site, kernel: Sequence[int]) -> Window:
    """Read a node's window; `auto_pad` SAME becomes pads where the input's sizes are fixed."""
    rank = len(kernel)
    sizes = tuple(int(k) for k in kernel)
    strides = tuple(int(s) for s in site.attr("strides", [1] * rank))
    dilations = tuple(int(d) for d in site.attr("dilations", [1] * rank))
    auto = str(site.attr("auto_pad", "NOTSET"))
    if auto in ("NOTSET", "VALID", ""):
        flat = [0] * 2 * rank if auto == "VALID" else list(site.attr("pads", [0] * 2 * rank))
        pads = tuple((int(a), int(b)) for a, b in zip(flat[:rank], flat[rank:], strict=True))
        return Window(sizes, strides, dilations, pads)
    upper = auto == "SAME_UPPER"
    have = _spatial(site)
    found = (
        ()
        if have is None
        else tuple(
            functions.same_sizes(n, k, s, d, upper)
            for n, k, s, d in zip(have, sizes, strides, dilations, strict=True)
        )
    )
    return Window(sizes, strides, dilations, found or None, upper)


def _spatial(site: Site) -> tuple[int, ...] | None:
    """Return the input's spatial sizes where the graph fixes them."""
    value = site.node.inputs[0]
    if value is None or value.shape is None:
        return None
    sizes = list(value.shape)[2:]
    return (
        tuple(whole)
        if len(whole := [s for s in sizes if isinstance(s, int)]) == len(sizes)
        else None
    )
