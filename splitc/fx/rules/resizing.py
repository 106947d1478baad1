"""Resize and Upsample: torch's interpolation where it says the same, else index arithmetic."""

from typing import Any

from torch import fx
from torch.nn import functional

from splitc.fx import resampling
from splitc.fx.site import Site


def resize(site: Site) -> fx.Node:
    """Resize of any axes in modes nearest and linear; cubic in the plane."""
    mode = str(site.attr("mode", "nearest"))
    how = str(site.attr("coordinate_transformation_mode", "half_pixel"))
    if site.op == "Upsample" or site.opset < 11:
        how = "asymmetric"
    if site.attr("antialias", 0) or site.attr("exclude_outside", 0) or how == "tf_crop_and_resize":
        raise site.refuse("antialias, exclude_outside and cropping are not covered")
    scales, sizes = _wanted(site)
    if mode == "cubic":
        return _cubic(site, how, scales, sizes)
    rounding = str(site.attr("nearest_mode", "round_prefer_floor"))
    if site.opset < 11 or site.op == "Upsample":
        rounding = "floor"
    if mode == "nearest" and _repeats(how, rounding, scales):
        factors = [float(scale) for scale in (scales or [])[2:]]
        return site.call(functional.interpolate, site.x(0), None, factors, "nearest")
    target = resampling.resize_nearest if mode == "nearest" else resampling.resize_linear
    extra = (rounding,) if mode == "nearest" else ()
    return site.call(target, site.x(0), scales, sizes, how, *extra)


def _wanted(site: Site) -> tuple[list[float] | None, list[Any] | None]:
    """Return (scales, sizes), one of which is None, for every axis."""
    rank = site.rank()
    axes = site.per_axis(site.attr("axes", range(rank)))
    if site.op == "Upsample" or site.opset < 11:
        given = site.attr("scales") or site.known(1).reshape(-1)
        return [float(s) for s in given], None
    if str(site.attr("keep_aspect_ratio_policy", "stretch")) != "stretch":
        raise site.refuse("it keeps the aspect ratio")
    if site.has(3) and ((given := site.array(3)) is None or given.size):
        found = site.sizes(3)
        if found is None:
            raise site.refuse("its sizes are a tensor that the network computes")
        named = dict(zip(axes, found.items, strict=True))
        return None, [named.get(axis, -1) for axis in range(rank)]
    by_axis = dict(zip(axes, site.known(2).reshape(-1).tolist(), strict=True))
    return [float(by_axis.get(axis, 1.0)) for axis in range(rank)], None


def _repeats(how: str, rounding: str, scales: list[float] | None) -> bool:
    """Tell whether nearest means that each pixel is repeated a whole number of times."""
    if scales is None or len(scales) not in (3, 4, 5) or scales[:2] != [1.0, 1.0]:
        return False
    whole = all(scale >= 1 and scale.is_integer() for scale in scales)
    return whole and (how, rounding) in (
        ("asymmetric", "floor"),
        ("half_pixel", "round_prefer_floor"),
        ("half_pixel", "round_prefer_ceil"),
    )


def _cubic(site: Site, how: str, scales: list[float] | None, sizes: list[Any] | None) -> fx.Node:
    plane = site.rank() == 4 and (scales or [1.0, 1.0])[:2] == [1.0, 1.0]
    if not plane or how not in ("half_pixel", "align_corners", "pytorch_half_pixel"):
        raise site.refuse(f"cubic, {how}, rank {site.rank()}")
    if site.attr("cubic_coeff_a", -0.75) != -0.75:
        raise site.refuse("its cubic coefficient is not -0.75")
    size, factors = sizes[2:] if sizes else None, scales[2:] if scales else None
    corners = how == "align_corners"
    return site.call(functional.interpolate, site.x(0), size, factors, "bicubic", corners)


RULES = {"Resize": resize, "Upsample": resize}
