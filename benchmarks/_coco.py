"""COCO images of ../shared for YOLOX: letterboxing, decoding, and mean average precision.

AP as COCO defines it: IoU 0.50 to 0.95 in steps of 0.05, precision interpolated at 101 recalls, at
most 100 detections an image, crowds ignored, mean over the classes that occur.
"""

import io
import json
import tarfile
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from _cifar import SHARED
from numpy.typing import NDArray
from PIL import Image

SIZE = 416
_IOUS = np.arange(0.5, 0.999, 0.05)
_RECALLS = np.linspace(0, 1, 101)
_MOST = 100
Array = NDArray[Any]


@dataclass(frozen=True)
class Truth:
    """The objects of one image: boxes x, y, width, height; `crowd`: to be ignored."""

    boxes: Array
    classes: Array
    crowd: Array


@dataclass(frozen=True)
class Found:
    """The detections of one image, best first."""

    boxes: Array
    classes: Array
    scores: Array


def letterboxed(picture: Image.Image) -> tuple[Array, float]:
    """Return the image in the upper left corner of a grey square, BGR, 0 to 255, and its scale."""
    ratio = min(SIZE / picture.width, SIZE / picture.height)
    size = int(picture.width * ratio), int(picture.height * ratio)
    canvas = np.full((SIZE, SIZE, 3), 114, np.uint8)
    canvas[: size[1], : size[0]] = np.asarray(picture.resize(size, Image.Resampling.BILINEAR))
    return canvas[:, :, ::-1].transpose(2, 0, 1).astype(np.float32), ratio


def coco80() -> tuple[Array, Array, list[Truth]]:
    """Return (images (80, 3, 416, 416), their scales, their objects)."""
    with tarfile.open(SHARED / "data" / "coco_val80.tar") as tar:
        notes = json.load(_member(tar, "instances.json"))
        boxed = [letterboxed(_picture(tar, image["file_name"])) for image in notes["images"]]
    place = {c["id"]: at for at, c in enumerate(sorted(notes["categories"], key=_id))}
    truths = []
    for image in notes["images"]:
        mine = [a for a in notes["annotations"] if a["image_id"] == image["id"]]
        truths.append(
            Truth(
                np.array([a["bbox"] for a in mine], np.float64).reshape(-1, 4),
                np.array([place[a["category_id"]] for a in mine], np.int64),
                np.array([bool(a["iscrowd"]) for a in mine], bool),
            )
        )
    return np.stack([x for x, _ in boxed]), np.array([r for _, r in boxed]), truths


def calibration(count: int) -> Array:
    """Return letterboxed ImageNet training images: photographs that are not scored."""
    with tarfile.open(SHARED / "data" / "imagenet_train1000_224.tar") as tar:
        names = sorted(n for n in tar.getnames() if n.lower().endswith((".jpg", ".jpeg")))
        step = max(1, len(names) // count)
        return np.stack([letterboxed(_picture(tar, n))[0] for n in names[::step][:count]])


def _id(category: dict[str, Any]) -> int:
    return int(category["id"])


def _member(tar: tarfile.TarFile, name: str) -> io.BytesIO:
    file = tar.extractfile(name)
    assert file is not None
    return io.BytesIO(file.read())


def _picture(tar: tarfile.TarFile, name: str) -> Image.Image:
    return Image.open(_member(tar, name)).convert("RGB")


def decoded(raw: Array, scale: float) -> Found:
    """Turn one raw head (3549, 85) into detections in the pixels of the image."""
    cells, strides = _grid()
    centres = (raw[:, :2] + cells) * strides
    sizes = np.exp(raw[:, 2:4]) * strides
    boxes = np.concatenate([centres - sizes / 2, sizes], axis=1) / scale
    scores = raw[:, 4:5] * raw[:, 5:]
    at, classes = np.nonzero(scores > 0.01)
    return _suppressed(Found(boxes[at], classes, scores[at, classes]))


def _grid() -> tuple[Array, Array]:
    cells, strides = [], []
    for stride in (8, 16, 32):
        side = np.arange(SIZE // stride)
        y, x = np.meshgrid(side, side, indexing="ij")
        cells.append(np.stack([x, y], axis=-1).reshape(-1, 2))
        strides.append(np.full((side.size**2, 1), stride))
    return np.concatenate(cells), np.concatenate(strides)


def _suppressed(found: Found) -> Found:
    """Keep of overlapping boxes of one class (IoU above 0.65) the best."""
    order = np.argsort(-found.scores, kind="stable")
    kept: list[int] = []
    for label in np.unique(found.classes):
        mine = [int(i) for i in order if found.classes[i] == label]
        while mine:
            best, *rest = mine
            kept.append(best)
            overlap = iou(found.boxes[[best]], found.boxes[rest], np.zeros(len(rest), bool))[0]
            mine = [i for i, o in zip(rest, overlap, strict=True) if o <= 0.65]
    at = np.array(sorted(kept, key=lambda i: -found.scores[i])[:_MOST], np.int64)
    return Found(found.boxes[at], found.classes[at], found.scores[at])


def iou(a: Array, b: Array, crowd: Array) -> Array:
    """Return (len(a), len(b)); with a crowd: the share of `a` that lies in it."""
    low = np.maximum(a[:, None, :2], b[None, :, :2])
    high = np.minimum(a[:, None, :2] + a[:, None, 2:], b[None, :, :2] + b[None, :, 2:])
    common = np.prod(np.clip(high - low, 0, None), axis=-1)
    own, other = np.prod(a[:, 2:], axis=1)[:, None], np.prod(b[:, 2:], axis=1)[None]
    whole = np.where(crowd[None], own, own + other - common)
    return common / np.maximum(whole, 1e-9)


Matched = dict[int, tuple[list[tuple[float, Array, Array]], int]]


def matched(found: Found, truth: Truth) -> Matched:
    """Return class → ([(score, hit at each IoU, ignored at each IoU)], number of objects)."""
    result: Matched = {}
    for label in {*found.classes.tolist(), *truth.classes.tolist()}:
        mine, real = found.classes == label, truth.classes == label
        order = np.argsort(truth.crowd[real], kind="stable")  # crowds last
        crowd = truth.crowd[real][order]
        overlap = iou(found.boxes[mine], truth.boxes[real][order], crowd)
        hits, ignored = _assigned(overlap, crowd)
        rows = list(zip(found.scores[mine].tolist(), hits, ignored, strict=True))
        result[label] = (rows, int((~crowd).sum()))
    return result


def _assigned(overlap: Array, crowd: Array) -> tuple[Array, Array]:
    """Give each detection, best first, the free object that it overlaps most; (n, IoUs) each."""
    hits = np.zeros((len(overlap), len(_IOUS)), bool)
    ignored = np.zeros_like(hits)
    for t, least in enumerate(_IOUS):
        free = np.ones(len(crowd), bool)
        for d, row in enumerate(overlap):
            able = np.where((row >= least) & (free | crowd), row, -1)
            able = np.where(crowd & (able[~crowd].max(initial=-1) >= 0), -1, able)
            best = int(able.argmax()) if len(able) else -1
            if best >= 0 and able[best] >= 0:
                hits[d, t], ignored[d, t] = not crowd[best], crowd[best]
                free[best] = False
    return hits, ignored


def average_precision(images: Sequence[Matched]) -> float:
    """Return the mean AP, percent, over the classes that occur and the IoUs."""
    labels = sorted({label for image in images for label in image})
    values = []
    for label in labels:
        parts = [image[label] for image in images if label in image]
        count = sum(objects for _, objects in parts)
        rows = sorted((row for made, _ in parts for row in made), key=lambda row: -row[0])
        if count:
            values += [_area(rows, t, count) for t in range(len(_IOUS))]
    return 100 * float(np.mean(values))


def _area(rows: Sequence[tuple[float, Array, Array]], t: int, count: int) -> float:
    hits = np.array([hit[t] for _, hit, ignored in rows if not ignored[t]], bool)
    if not len(hits):
        return 0.0
    true = np.cumsum(hits)
    precision = np.maximum.accumulate((true / np.arange(1, len(hits) + 1))[::-1])[::-1]
    at = np.searchsorted(true / count, _RECALLS, side="left")
    return float(np.append(precision, 0.0)[np.minimum(at, len(hits))].mean())
