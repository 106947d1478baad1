"""ResNet-18 and -50, MobileNetV2, ViT-B/16 and BERT-base as plain torch modules, random weights.

Each function returns (module, example inputs); `_networks` settles and exports them.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional


def resnet18() -> tuple[nn.Module, tuple[Any, ...]]:
    """He et al. 2016, table 1: two 3×3 convolutions a block."""
    return _resnet(Basic, 1, (2, 2, 2, 2)), (torch.randn(1, 3, 224, 224),)


def resnet50() -> tuple[nn.Module, tuple[Any, ...]]:
    """He et al. 2016, table 1; the stride stands in the 3×3 convolution."""
    return _resnet(Bottleneck, 4, (3, 4, 6, 3)), (torch.randn(1, 3, 224, 224),)


def _resnet(block: Any, expansion: int, counts: tuple[int, ...]) -> nn.Module:
    layers: list[nn.Module] = [*_conv(3, 64, 7, 2), nn.MaxPool2d(3, 2, 1)]
    width = 64
    for planes, count in zip((64, 128, 256, 512), counts, strict=True):
        for index in range(count):
            stride = 2 if index == 0 and planes > 64 else 1
            layers.append(block(width, planes, stride))
            width = expansion * planes
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, 1000))


def mobilenet_v2() -> tuple[nn.Module, tuple[Any, ...]]:
    """Sandler et al. 2018, table 2, width 1.0."""
    table = ((1, 16, 1, 1), (6, 24, 2, 2), (6, 32, 3, 2), (6, 64, 4, 2), (6, 96, 3, 1))
    layers: list[nn.Module] = [*_conv(3, 32, 3, 2, act=nn.ReLU6)]
    width = 32
    for expand, planes, count, stride in (*table, (6, 160, 3, 2), (6, 320, 1, 1)):
        for index in range(count):
            layers.append(Inverted(width, planes, stride if index == 0 else 1, expand))
            width = planes
    layers += [*_conv(width, 1280, 1, act=nn.ReLU6), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    return nn.Sequential(*layers, nn.Linear(1280, 1000)), (torch.randn(1, 3, 224, 224),)


def vit_b16() -> tuple[nn.Module, tuple[Any, ...]]:
    """Dosovitskiy et al. 2021, table 1: 12 pre-norm blocks, 768 wide, 12 heads, 16×16 patches."""
    return ViT(), (torch.randn(1, 3, 224, 224),)


def bert_base() -> tuple[nn.Module, tuple[Any, ...]]:
    """Devlin et al. 2019: 12 post-norm blocks, 768 wide, 12 heads, 30,522 words, 128 tokens."""
    ids = torch.randint(0, 30522, (1, 128))
    return Bert(), (ids, torch.ones(1, 128, dtype=torch.int64))


def _conv(
    entry: int, out: int, kernel: int, stride: int = 1, groups: int = 1, act: Any = nn.ReLU
) -> list[nn.Module]:
    conv = nn.Conv2d(entry, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return [conv, nn.BatchNorm2d(out), *([act()] if act else [])]


class Residual(nn.Module):
    """relu(body(x) + x), where `body` keeps the shape, else relu(body(x) + a 1×1 of x)."""

    def __init__(self, body: list[nn.Module], entry: int, out: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(*body)
        same = stride == 1 and entry == out
        self.short = nn.Sequential(*([] if same else _conv(entry, out, 1, stride, act=None)))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.short(x))


class Basic(Residual):
    def __init__(self, entry: int, planes: int, stride: int) -> None:
        body = [*_conv(entry, planes, 3, stride), *_conv(planes, planes, 3, act=None)]
        super().__init__(body, entry, planes, stride)


class Bottleneck(Residual):
    def __init__(self, entry: int, planes: int, stride: int) -> None:
        inner = [*_conv(entry, planes, 1), *_conv(planes, planes, 3, stride)]
        body = [*inner, *_conv(planes, 4 * planes, 1, act=None)]
        super().__init__(body, entry, 4 * planes, stride)


class Inverted(nn.Module):
    def __init__(self, entry: int, planes: int, stride: int, expand: int) -> None:
        super().__init__()
        wide = entry * expand
        layers = _conv(entry, wide, 1, act=nn.ReLU6) if expand > 1 else []
        layers += _conv(wide, wide, 3, stride, groups=wide, act=nn.ReLU6)
        self.body = nn.Sequential(*layers, *_conv(wide, planes, 1, act=None))
        self.same = stride == 1 and entry == planes

    def forward(self, x: Tensor) -> Tensor:
        return x + self.body(x) if self.same else self.body(x)


class Block(nn.Module):
    def __init__(self, pre: bool, width: int = 768, heads: int = 12) -> None:
        super().__init__()
        self.pre, self.heads = pre, heads
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.wide, self.back = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)

    def attend(self, x: Tensor, mask: Tensor | None) -> Tensor:
        batch, length, width = x.shape
        parts = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-2, -1) / (width // self.heads) ** 0.5
        weights = (scores if mask is None else scores + mask).softmax(-1)
        return self.out((weights @ v).transpose(1, 2).reshape(batch, length, width))

    def feed(self, x: Tensor) -> Tensor:
        return self.back(functional.gelu(self.wide(x)))

    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if self.pre:
            x = x + self.attend(self.norm1(x), mask)
            return x + self.feed(self.norm2(x))
        x = self.norm1(x + self.attend(x, mask))
        return self.norm2(x + self.feed(x))


class ViT(nn.Module):
    def __init__(self, width: int = 768) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, width) * 0.02)
        self.places = nn.Parameter(torch.randn(1, 197, width) * 0.02)
        self.blocks = nn.Sequential(*(Block(pre=True) for _ in range(12)))
        self.norm, self.head = nn.LayerNorm(width, 1e-6), nn.Linear(width, 1000)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        return self.head(self.norm(self.blocks(x))[:, 0])


class Bert(nn.Module):
    def __init__(self, width: int = 768) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(30522, width), nn.Embedding(512, width)
        self.norm = nn.LayerNorm(width, 1e-12)
        self.blocks = nn.ModuleList(Block(pre=False) for _ in range(12))
        self.pool = nn.Linear(width, width)

    def forward(self, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        place = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.places(place))
        bias = (1.0 - mask[:, None, None, :].to(x.dtype)) * -10000.0
        for block in self.blocks:
            x = block(x, bias)
        return x, torch.tanh(self.pool(x[:, 0]))
