"""Batch, layer, group, instance and RMS normalisation as nn modules; LRN and LpNormalization."""

from typing import Any

import numpy as np
import torch
from torch import fx, nn
from torch.nn import functional

from splitc.fx import functions
from splitc.fx.builder import Weight
from splitc.fx.layouts import Permuted
from splitc.fx.site import Site

_BATCH = {2: nn.BatchNorm1d, 3: nn.BatchNorm1d, 4: nn.BatchNorm2d, 5: nn.BatchNorm3d}
_INSTANCE = {3: nn.InstanceNorm1d, 4: nn.InstanceNorm2d, 5: nn.InstanceNorm3d}
_PLAIN = Permuted()


def _weights(site: Site, *places: int) -> list[Weight]:
    """Return inputs that must be initializers as they are."""
    found = [site.weight(place) for place in places]
    held = [w for w in found if w is not None and not w.order and site.builder.owns(w, _PLAIN)]
    if len(held) < len(places):
        raise site.refuse("its scale, bias or statistics are not initializers")
    return held


def batch(site: Site) -> fx.Node:
    """BatchNormalization, with the statistics of the model."""
    if site.attr("training_mode", 0) or len([o for o in site.node.outputs if o.name]) > 1:
        raise site.refuse("it is in training mode")
    names = ("weight", "bias", "running_mean", "running_var")
    weights = _weights(site, 1, 2, 3, 4)
    epsilon = float(site.attr("epsilon", 1e-5))
    momentum = 1.0 - float(site.attr("momentum", 0.9))
    made = _BATCH[site.rank()](weights[0].array.shape[0], epsilon, momentum, device="meta")
    made.num_batches_tracked = torch.tensor(0)
    held = [((name,), weight, _PLAIN) for name, weight in zip(names, weights, strict=True)]
    return site.layer(made, held, site.x(0))


def layer(site: Site) -> fx.Node:
    """LayerNormalization over the axes from `axis` on."""
    if len([out for out in site.node.outputs if out.name]) > 1:
        raise site.refuse("its mean or deviation is read")
    axis, epsilon = site.axis(-1), float(site.attr("epsilon", 1e-5))
    scale, bias = site.weight(1), site.weight(2)
    ready = scale is not None and (bias is not None or not site.has(2))
    over = site.rank() - axis
    if not ready or scale is None or scale.array.ndim != over or scale.order:
        shifted = site.x(2) if site.has(2) else None
        return site.call(functions.layer_norm, site.x(0), over, site.x(1), shifted, epsilon)
    made = nn.LayerNorm(scale.array.shape, epsilon, bias=bias is not None, device="meta")
    held = [(("weight",), scale, _PLAIN), (("bias",), bias, _PLAIN)]
    return site.layer(made, held, site.x(0))


def rms(site: Site) -> fx.Node:
    """RMSNormalization over the axes from `axis` on."""
    scale, over = site.weight(1), site.rank() - site.axis(-1)
    epsilon = float(site.attr("epsilon", 1e-5))
    if scale is None or scale.order or scale.array.ndim != over:
        return site.call(functions.rms_norm, site.x(0), over, site.x(1), epsilon)
    made = nn.RMSNorm(scale.array.shape, epsilon, device="meta")
    return site.layer(made, [(("weight",), scale, _PLAIN)], site.x(0))


def instance(site: Site) -> fx.Node:
    """InstanceNormalization."""
    epsilon = float(site.attr("epsilon", 1e-5))
    if site.weight(1) is None or site.weight(2) is None:
        return site.call(functions.instance_norm, *site.all(), epsilon)
    scale, bias = _weights(site, 1, 2)
    fixed = all(weight.name in site.builder.constants for weight in (scale, bias))
    if fixed and np.all(scale.array == 1) and not bias.array.any():  # a GroupNorm's first half
        return site.call(functional.instance_norm, site.x(0), eps=epsilon)
    made = _INSTANCE[site.rank()](scale.array.shape[0], epsilon, affine=True, device="meta")
    return site.layer(made, [(("weight",), scale, _PLAIN), (("bias",), bias, _PLAIN)], site.x(0))


def group(site: Site) -> fx.Node:
    """GroupNormalization; scale and bias by channel (opset 21), or by group (18)."""
    scale, bias = _weights(site, 1, 2)
    groups, epsilon = int(site.attr("num_groups")), float(site.attr("epsilon", 1e-5))
    shape = site.shape(0)
    channels = shape[1] if shape else scale.array.shape[0]
    if scale.array.shape[0] != channels or site.opset < 21:
        args: tuple[Any, ...] = (site.x(0), groups, site.x(1), site.x(2), epsilon)
        return site.call(functions.group_norm, *args)
    made = nn.GroupNorm(groups, channels, epsilon, device="meta")
    return site.layer(made, [(("weight",), scale, _PLAIN), (("bias",), bias, _PLAIN)], site.x(0))


def local_response(site: Site) -> fx.Node:
    """LRN; the window is torch's where `size` is odd."""
    size = int(site.attr("size"))
    alpha, beta = float(site.attr("alpha", 1e-4)), float(site.attr("beta", 0.75))
    bias = float(site.attr("bias", 1.0))
    if size % 2 == 0:
        raise site.refuse(f"its size {size} is even, which onnxruntime does not run either")
    return site.call(functional.local_response_norm, site.x(0), size, alpha, beta, bias)


def lp(site: Site) -> fx.Node:
    """LpNormalization along one axis."""
    return site.call(functions.lp_norm, site.x(0), int(site.attr("p", 2)), site.axis(-1))


RULES = {
    "BatchNormalization": batch,
    "LayerNormalization": layer,
    "RMSNormalization": rms,
    "InstanceNormalization": instance,
    "GroupNormalization": group,
    "LRN": local_response,
    "LpNormalization": lp,
}
