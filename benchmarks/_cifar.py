"""CIFAR-10 of ../shared as the networks there read it, and the augmentation for training on it."""

import lzma
import os
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from splitc.data import Dataset

SHARED = Path(os.environ.get("SPLITC_SHARED", Path(__file__).resolve().parents[2] / "shared"))
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_STD = np.array([0.229, 0.224, 0.225], np.float32)


def cifar10(part: str, name: str = "input", limit: int | None = None) -> Dataset:
    """Return the images, normalised, under the input's name; part: train | test2000."""
    blob = lzma.decompress((SHARED / "data" / f"cifar10_jpeg_{part}.bin.xz").read_bytes())
    images, labels, at = list[NDArray[np.uint8]](), list[int](), 0
    while at < len(blob) and len(labels) != limit:
        size = int.from_bytes(blob[at + 1 : at + 3], "little")
        picture = Image.open(BytesIO(blob[at + 3 : at + 3 + size])).convert("RGB")
        images.append(np.asarray(picture).transpose(2, 0, 1))
        labels.append(blob[at])
        at += 3 + size
    x = np.empty((len(images), 3, 32, 32), np.float32)
    for row, image in zip(x, images, strict=True):
        row[:] = ((image / np.float32(255)).T - _MEAN).T / _STD[:, None, None]
    return Dataset({name: x}, np.array(labels, np.int64), f"cifar10 {part}")


def augmented(inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """Flip half of the images, and shift each by up to 4 pixels (zeros come in)."""
    (x,) = inputs
    count, _, rows, columns = x.shape
    flipped = torch.where((torch.rand(count) < 0.5)[:, None, None, None], x.flip(3), x)
    padded = functional.pad(flipped, (4, 4, 4, 4))
    down, right = torch.randint(0, 9, (count,)), torch.randint(0, 9, (count,))
    at_row = down[:, None] + torch.arange(rows)
    at_column = right[:, None] + torch.arange(columns)
    place = torch.arange(count)[:, None, None]
    moved = padded.permute(0, 2, 3, 1)[place, at_row[:, :, None], at_column[:, None, :]]
    return (moved.permute(0, 3, 1, 2),)
