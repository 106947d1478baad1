"""Which layers of a lifted module hold weights that pruning may change, and how wide they are."""

import copy
from collections import Counter

from torch import fx, nn

CONV = nn.modules.conv._ConvNd


def weighty(layer: nn.Module) -> bool:
    """Tell whether a layer multiplies by weights: a convolution or a Linear."""
    return isinstance(layer, CONV | nn.Linear)


def depthwise(layer: nn.Module) -> bool:
    """Tell whether each channel of a convolution is filtered alone."""
    return isinstance(layer, CONV) and 1 < layer.groups == layer.out_channels == layer.in_channels


def transposed(layer: nn.Module) -> bool:
    """Tell whether a layer's weight has its inputs on axis 0."""
    return bool(getattr(layer, "transposed", False))


def widths(layer: nn.Module) -> tuple[int, int]:
    """Return (outputs, inputs) of a layer; (1, 1) for one without."""
    if isinstance(layer, nn.Linear):
        return layer.out_features, layer.in_features
    if isinstance(layer, CONV):
        return layer.out_channels, layer.in_channels
    width = getattr(layer, "num_features", None) or getattr(layer, "num_channels", None) or 1
    return int(width), 1


def trained(module: fx.GraphModule) -> tuple[str, ...]:
    """Return the layers whose weights come from initializers that nobody else holds, in order."""
    owners = Counter(id(p) for layer in module.modules() for p in layer.parameters(recurse=False))
    weights = (path for path in module.meta["parameters"] if path.endswith(".weight"))
    return tuple(
        path.removesuffix(".weight")
        for path in weights
        if owners[id(module.get_parameter(path))] == 1
    )


def copied(module: fx.GraphModule) -> fx.GraphModule:
    """Return a deep copy that knows what the module knows of its origin."""
    made = copy.deepcopy(module)
    made.meta.update(module.meta)
    return made
