"""Frames of the digits camera: handwritten digits laid over a noisy, uneven background.

A frame is grey, 8 bits a pixel, cut into cells of 32×32. A cell holds one digit or none; its label
is 0 to 9, or `NOTHING`. Everything is drawn from the generator that the caller hands in, so a
seed and a list of digits give the same frames everywhere.
"""

from pathlib import Path

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

CELL = 32
NOTHING = 10
HELD_OUT = 447
"""Digits that no training frame holds: the last quarter, in the order of the data set."""

Images = NDArray[np.uint8]
Labels = NDArray[np.int64]


def digits(held_out: bool) -> tuple[Images, Labels]:
    """Return images (n, 8, 8) with values 0 to 16, and their labels (n,)."""
    stored = np.load(Path(__file__).with_name("digits.npz"))
    part = slice(-HELD_OUT, None) if held_out else slice(-HELD_OUT)
    return stored["images"][part], stored["labels"][part].astype(np.int64)


def held_out_frames(size: int = 256, per_frame: int = 8) -> tuple[Images, Labels]:
    """Return frames (F, 1, size, size) in which each held-out digit stands exactly once."""
    images, labels = digits(held_out=True)
    rng = np.random.default_rng(2026)
    order = rng.permutation(len(images))
    groups = [order[at : at + per_frame] for at in range(0, len(order), per_frame)]
    made = [frame(images[group], labels[group], size, rng) for group in groups]
    return np.stack([pixels for pixels, _ in made])[:, None], np.stack([truth for _, truth in made])


def frame(
    images: Images, labels: Labels, size: int, rng: Generator, slant: float = 0.0
) -> tuple[Images, Labels]:
    """Lay these digits into different cells of one frame; return (size, size) and cell labels.

    `slant`: each digit leans and climbs by up to this much (a slope), to vary training digits.
    """
    across = size // CELL
    truth = np.full((across, across), NOTHING, np.int64)
    canvas = background(size, rng)
    cells = rng.choice(across * across, len(images), replace=False)
    for image, label, cell in zip(images, labels, cells, strict=True):
        row, column = divmod(int(cell), across)
        truth[row, column] = label
        _draw(canvas, image, row, column, rng, slant)
    noisy = canvas + rng.normal(0, rng.uniform(3, 10), canvas.shape)
    return np.clip(noisy, 0, 255).astype(np.uint8), truth


def background(size: int, rng: Generator) -> NDArray[np.float64]:
    """Return an uneven surface with a few straight lines across it."""
    coarse = rng.normal(0, 1, (6, 6))
    surface = rng.uniform(70, 185) + rng.uniform(5, 25) * stretch(coarse, size, size)
    y, x = np.mgrid[:size, :size]
    for _ in range(rng.integers(0, 5)):
        angle, away = rng.uniform(0, np.pi), rng.uniform(-0.5, 1.2) * size
        near = np.abs(x * np.cos(angle) + y * np.sin(angle) - away) < rng.uniform(0.6, 1.6)
        surface[near] += rng.uniform(-45, 45)
    return surface


def _draw(
    canvas: NDArray[np.float64],
    image: Images,
    row: int,
    column: int,
    rng: Generator,
    slant: float,
) -> None:
    """Write one digit into its cell: 20 to 30 pixels high, dark or light, a little off centre."""
    height = int(rng.integers(20, 31))
    width = int(height * rng.uniform(0.8, 1.0))
    top = row * CELL + int(rng.integers(0, CELL - height + 1))
    left = column * CELL + int(rng.integers(0, CELL - width + 1))
    patch = canvas[top : top + height, left : left + width]
    ink = rng.uniform(60, 110) * (-1 if patch.mean() > 128 else 1)
    drawn = stretch(image / 16.0, height, width)
    if slant:
        drawn = lean(lean(drawn, rng.uniform(-slant, slant)).T, rng.uniform(-slant, slant)).T
    patch += ink * drawn


def lean(image: NDArray[np.float64], slope: float) -> NDArray[np.float64]:
    """Shear a 2-D array: shift each row by `slope` pixels more than the row before."""
    across, middle = np.arange(image.shape[1]), (image.shape[0] - 1) / 2
    return np.stack(
        [np.interp(across + slope * (i - middle), across, row) for i, row in enumerate(image)]
    )


def stretch(image: NDArray[np.float64], height: int, width: int) -> NDArray[np.float64]:
    """Resize a 2-D array by linear interpolation along each axis."""
    return _weights(image.shape[0], height) @ image @ _weights(image.shape[1], width).T


def _weights(before: int, after: int) -> NDArray[np.float64]:
    """Return the (after, before) matrix that interpolates linearly between pixel centres."""
    at = np.clip((np.arange(after) + 0.5) * before / after - 0.5, 0, before - 1)
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(before)[None]))
