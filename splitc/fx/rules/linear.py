"""MatMul, Gemm, Einsum: nn.Linear where the second operand is a weight matrix."""

import operator

import torch
from torch import fx, nn

from splitc.fx.builder import Weight
from splitc.fx.layouts import Layout, Permuted, Vector
from splitc.fx.site import Site


def linear(
    site: Site, x: fx.Node, weight: Weight | None, bias: Weight | None = None
) -> fx.Node | None:
    """Add an nn.Linear for x @ weight + bias; None if the weight cannot be held by one."""
    if weight is None or weight.array.ndim != 2:
        return None
    order = tuple(reversed(weight.order or (0, 1)))
    layout = Permuted(() if order == (0, 1) else order)
    if not site.builder.owns(weight, layout):
        return None
    entry, out = weight.seen.shape
    vector: Layout = Permuted()
    if bias is not None:
        if (found := bias_layout(bias, out)) is None or not site.builder.owns(bias, found):
            return None
        vector = found
    module = nn.Linear(entry, out, bias is not None, device="meta")
    return site.layer(module, [(("weight",), weight, layout), (("bias",), bias, vector)], x)


def bias_layout(bias: Weight, out: int, axis: int = -1) -> Layout | None:
    """Return how a bias with axes of size 1 around it is a vector of `out`; None if it is not."""
    shape = bias.array.shape
    rank = len(shape)
    if bias.order or rank == 0 or bias.array.size != out or shape[axis] != out:
        return None
    return Permuted() if rank == 1 else Vector(rank, axis % rank)


def matmul(site: Site) -> fx.Node:
    """MatMul; vectors and batches as torch does them."""
    made = linear(site, site.x(0), site.weight(1)) if site.array(0) is None else None
    return made or site.call(torch.matmul, site.x(0), site.x(1))


def gemm(site: Site) -> fx.Node:
    """Gemm: alpha · A' B' + beta · C."""
    alpha, beta = float(site.attr("alpha", 1.0)), float(site.attr("beta", 1.0))
    a = site.x(0)
    if site.attr("transA", 0):
        a = site.call(torch.transpose, a, 0, 1)
    weight, bias = site.weight(1), site.weight(2)
    if weight is not None and site.attr("transB", 0):
        weight = Weight(weight.name, weight.array, tuple(reversed(weight.order or (0, 1))))
    if alpha == 1.0 and (beta == 1.0 or not site.has(2)) and (bias or not site.has(2)):
        made = linear(site, a, weight, bias)
        if made is not None:
            return made
    b = site.x(1)
    if site.attr("transB", 0):
        b = site.call(torch.transpose, b, 0, 1)
    product = site.call(torch.matmul, a, b)
    if alpha != 1.0:
        product = site.call(operator.mul, product, alpha)
    if not site.has(2):
        return product
    added = site.x(2) if beta == 1.0 else site.call(operator.mul, site.x(2), beta)
    return site.call(operator.add, product, added)


def einsum(site: Site) -> fx.Node:
    """Einsum."""
    return site.call(torch.einsum, str(site.attr("equation")), *site.all())


RULES = {"MatMul": matmul, "Gemm": gemm, "Einsum": einsum}
