"""The table: ONNX operator → the rule that lifts it. One file for each family."""

from collections.abc import Callable

from splitc.fx.builder import Made
from splitc.fx.rules import (
    convolution,
    elementwise,
    indexing,
    linear,
    normalization,
    pooling,
    reduction,
    shaping,
)
from splitc.fx.site import Site

Rule = Callable[[Site], Made]
RULES: dict[str, Rule] = {}
for _family in (
    convolution,
    linear,
    normalization,
    pooling,
    elementwise,
    reduction,
    shaping,
    indexing,
):
    RULES |= _family.RULES
