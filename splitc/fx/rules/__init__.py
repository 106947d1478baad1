"""The table: ONNX operator → the rule that lifts it. One file for each family."""

from collections.abc import Callable

from splitc.fx.builder import Made
from splitc.fx.rules import (
    control,
    convolution,
    elementwise,
    indexing,
    linear,
    normalization,
    pooling,
    recurrent,
    reduction,
    resizing,
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
    resizing,
    recurrent,
    control,
):
    RULES |= _family.RULES
