"""Small torch networks with the building blocks of the well-known ones, random weights.

Each function returns (module, example inputs), as splitc's factory ingest wants them:
``splitc.load("_lift_networks:densenet")``. Widths are small; the blocks are the real ones.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

IMAGE = (3, 64, 64)
Made = tuple[nn.Module, tuple[Any, ...]]


def settle(module: nn.Module) -> nn.Module:
    """Draw He weights and BatchNorm statistics, so that no layer is an identity."""
    torch.manual_seed(0)
    for part in module.modules():
        if isinstance(part, nn.Conv2d | nn.ConvTranspose2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_in")
        if isinstance(part, nn.BatchNorm2d | nn.LayerNorm | nn.GroupNorm | nn.InstanceNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.0)
            nn.init.normal_(part.bias, 0.0, 0.1)
        if isinstance(part, nn.BatchNorm2d):
            assert part.running_mean is not None
            assert part.running_var is not None
            part.running_mean.normal_(0.0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
    return module.eval()


def image(batch: int = 1) -> tuple[Tensor]:
    return (torch.randn(batch, *IMAGE, generator=torch.Generator().manual_seed(1)),)


def conv(entry: int, out: int, kernel: int = 3, stride: int = 1, groups: int = 1) -> nn.Sequential:
    layer = nn.Conv2d(entry, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out), nn.ReLU())


def head(width: int, classes: int = 10) -> nn.Sequential:
    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(width, classes))


class Residual(nn.Module):
    """He et al. 2016: bottleneck with projection."""

    def __init__(self, entry: int, inner: int, out: int, stride: int = 1) -> None:
        super().__init__()
        last = nn.Sequential(nn.Conv2d(inner, out, 1, bias=False), nn.BatchNorm2d(out))
        self.body = nn.Sequential(conv(entry, inner, 1), conv(inner, inner, 3, stride), last)
        self.short: nn.Module = nn.Identity()
        if entry != out or stride > 1:
            short = nn.Conv2d(entry, out, 1, stride, bias=False)
            self.short = nn.Sequential(short, nn.BatchNorm2d(out))

    def forward(self, x: Tensor) -> Tensor:
        return functional.relu(self.body(x) + self.short(x))


def resnet() -> Made:
    stem = nn.Sequential(conv(3, 16, 7, 2), nn.MaxPool2d(3, 2, 1))
    blocks = [Residual(16, 8, 32), Residual(32, 8, 32), Residual(32, 16, 64, 2)]
    return settle(nn.Sequential(stem, *blocks, head(64))), image()


class Dense(nn.Module):
    """Huang et al. 2017: BN-ReLU-Conv twice, joined to what came in."""

    def __init__(self, entry: int, growth: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.BatchNorm2d(entry),
            nn.ReLU(),
            nn.Conv2d(entry, 4 * growth, 1, bias=False),
            nn.BatchNorm2d(4 * growth),
            nn.ReLU(),
            nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False),
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([x, self.body(x)], 1)


def densenet() -> Made:
    def block(entry: int) -> list[nn.Module]:
        return [Dense(entry + 8 * i, 8) for i in range(3)]

    transition = [nn.BatchNorm2d(40), nn.ReLU(), nn.Conv2d(40, 20, 1, bias=False), nn.AvgPool2d(2)]
    stem = nn.Sequential(conv(3, 16, 7, 2), nn.MaxPool2d(3, 2, 1))
    tail = [nn.BatchNorm2d(44), nn.ReLU(), head(44)]
    return settle(nn.Sequential(stem, *block(16), *transition, *block(20), *tail)), image()


class Mixed(nn.Module):
    """Szegedy et al. 2016: four branches, factored convolutions, joined by channels."""

    def __init__(self, entry: int) -> None:
        super().__init__()
        self.one = conv(entry, 8, 1)
        self.five = nn.Sequential(conv(entry, 8, 1), conv(8, 12, 5))
        wide = nn.Conv2d(8, 8, (1, 7), padding=(0, 3))
        tall = nn.Conv2d(8, 12, (7, 1), padding=(3, 0))
        self.seven = nn.Sequential(conv(entry, 8, 1), wide, nn.BatchNorm2d(8), tall, nn.ReLU())
        self.pool = conv(entry, 8, 1)

    def forward(self, x: Tensor) -> Tensor:
        pooled = functional.avg_pool2d(x, 3, 1, 1, count_include_pad=False)
        return torch.cat([self.one(x), self.five(x), self.seven(x), self.pool(pooled)], 1)


def inception() -> Made:
    stem = nn.Sequential(conv(3, 16, 3, 2), nn.MaxPool2d(3, 2, ceil_mode=True))
    last = [nn.Dropout(0.4), head(40)]
    return settle(nn.Sequential(stem, Mixed(16), Mixed(40), *last)), image()


class Inverted(nn.Module):
    """Sandler et al. 2018; with squeeze and excitation and SiLU: Tan and Le 2019."""

    def __init__(self, entry: int, out: int, stride: int, act: type[nn.Module], se: bool) -> None:
        super().__init__()
        wide = 4 * entry
        depthwise = nn.Conv2d(wide, wide, 3, stride, 1, groups=wide, bias=False)
        self.expand = nn.Sequential(
            nn.Conv2d(entry, wide, 1, bias=False), nn.BatchNorm2d(wide), act()
        )
        self.depthwise = nn.Sequential(depthwise, nn.BatchNorm2d(wide), act())
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(wide, entry, 1), act(), nn.Conv2d(entry, wide, 1)
        )
        self.project = nn.Sequential(nn.Conv2d(wide, out, 1, bias=False), nn.BatchNorm2d(out))
        self.same, self.se = stride == 1 and entry == out, se

    def forward(self, x: Tensor) -> Tensor:
        y = self.depthwise(self.expand(x))
        y = y * torch.sigmoid(self.squeeze(y)) if self.se else y
        y = self.project(y)
        return x + y if self.same else y


def mobilenet() -> Made:
    blocks = [Inverted(16, 16, 1, nn.ReLU6, False), Inverted(16, 24, 2, nn.ReLU6, False)]
    return settle(nn.Sequential(conv(3, 16, 3, 2), *blocks, conv(24, 48, 1), head(48))), image()


def mobilenet_v3() -> Made:
    blocks = [Inverted(16, 16, 1, nn.Hardswish, True), Inverted(16, 24, 2, nn.Hardswish, True)]
    return settle(nn.Sequential(conv(3, 16, 3, 2), *blocks, nn.Hardsigmoid(), head(24))), image()


def efficientnet() -> Made:
    blocks = [Inverted(16, 16, 1, nn.SiLU, True), Inverted(16, 24, 2, nn.SiLU, True)]
    return settle(nn.Sequential(conv(3, 16, 3, 2), *blocks, head(24))), image()


class Shuffle(nn.Module):
    """Ma et al. 2018: half of the channels through, then the two halves shuffled."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half = width // 2
        depthwise = nn.Conv2d(half, half, 3, 1, 1, groups=half, bias=False)
        self.body = nn.Sequential(
            conv(half, half, 1), depthwise, nn.BatchNorm2d(half), conv(half, half, 1)
        )

    def forward(self, x: Tensor) -> Tensor:
        left, right = x.chunk(2, 1)
        joined = torch.cat([left, self.body(right)], 1)
        batch, width, rows, columns = joined.shape
        parts = joined.reshape(batch, 2, width // 2, rows, columns).transpose(1, 2)
        return parts.reshape(batch, width, rows, columns)


def shufflenet() -> Made:
    return settle(nn.Sequential(conv(3, 16, 3, 2), Shuffle(16), Shuffle(16), head(16))), image()


class Next(nn.Module):
    """Liu et al. 2022: depthwise 7×7, LayerNorm over channels, MLP, layer scale."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.depthwise = nn.Conv2d(width, width, 7, padding=3, groups=width)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        self.wide, self.back = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.gamma = nn.Parameter(torch.full((width,), 0.1))

    def forward(self, x: Tensor) -> Tensor:
        y = self.norm(self.depthwise(x).permute(0, 2, 3, 1))
        y = self.gamma * self.back(functional.gelu(self.wide(y)))
        return x + y.permute(0, 3, 1, 2)


def convnext() -> Made:
    stem = nn.Conv2d(3, 24, 4, 4)
    down = [nn.GroupNorm(1, 24), nn.Conv2d(24, 48, 2, 2)]
    return settle(nn.Sequential(stem, Next(24), *down, Next(48), head(48))), image()


class Upward(nn.Module):
    """Ronneberger et al. 2015: down, up by a transposed convolution and by Resize, joined."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.down = conv(3, 8), conv(8, 16, 3, 2)
        self.norm, self.slope = nn.InstanceNorm2d(16, affine=True), nn.PReLU(16)
        self.up, self.last = nn.ConvTranspose2d(16, 8, 2, 2), nn.Conv2d(16 + 16, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        first = self.first(x)
        low = self.slope(self.norm(self.down(first)))
        large = functional.interpolate(low, scale_factor=2, mode="bilinear", align_corners=False)
        return self.last(torch.cat([first, self.up(low), large], 1))


def unet() -> Made:
    return settle(Upward()), image()


class Attention(nn.Module):
    """Vaswani et al. 2017, fused qkv; `causal`: as GPT-2 masks."""

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.heads, self.causal = heads, causal
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        batch, length, width = x.shape
        parts = self.qkv(x).reshape(batch, length, 3, self.heads, width // self.heads)
        q, k, v = parts.permute(2, 0, 3, 1, 4).unbind(0)
        scores = q @ k.transpose(-2, -1) / math.sqrt(width // self.heads)
        if bias is not None:
            scores = scores + bias
        if self.causal:
            seen = torch.ones(length, length, dtype=torch.bool, device=x.device).tril()
            scores = scores.masked_fill(~seen, float("-inf"))
        return self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(batch, length, width))


class Layer(nn.Module):
    """A pre-norm transformer block; torch's own scaled dot product where `fused`."""

    def __init__(self, width: int, heads: int, causal: bool = False) -> None:
        super().__init__()
        self.attention = Attention(width, heads, causal)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.feed = nn.Sequential(
            nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width)
        )

    def forward(self, x: Tensor, bias: Tensor | None = None) -> Tensor:
        x = x + self.attention(self.norm1(x), bias)
        return x + self.feed(self.norm2(x))


class Vision(nn.Module):
    """Dosovitskiy et al. 2021."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 16, 16)
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.places = nn.Parameter(torch.randn(1, 17, width))
        self.blocks = nn.ModuleList(Layer(width, 4) for _ in range(2))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(x.shape[0], -1, -1), x], 1) + self.places
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def vit() -> Made:
    return settle(Vision()), image()


class Window(nn.Module):
    """Liu et al. 2021: attention in shifted windows, with a table of relative positions."""

    def __init__(self, width: int, heads: int, size: int, shift: int) -> None:
        super().__init__()
        self.size, self.shift, self.heads = size, shift, heads
        self.layer = Layer(width, heads)
        self.table = nn.Parameter(torch.randn((2 * size - 1) ** 2, heads))
        grid = torch.stack(torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij"))
        flat = grid.flatten(1)
        gap = (flat[:, :, None] - flat[:, None, :]) + size - 1
        self.register_buffer("places", gap[0] * (2 * size - 1) + gap[1])

    def forward(self, x: Tensor) -> Tensor:
        batch, rows, columns, width = x.shape
        s = self.size
        x = torch.roll(x, (-self.shift, -self.shift), (1, 2))
        x = x.reshape(batch, rows // s, s, columns // s, s, width).permute(0, 1, 3, 2, 4, 5)
        windows = x.reshape(-1, s * s, width)
        bias = self.table[self.places.reshape(-1)].reshape(s * s, s * s, -1).permute(2, 0, 1)
        x = self.layer(windows, bias.unsqueeze(0))
        x = x.reshape(-1, rows // s, columns // s, s, s, width).permute(0, 1, 3, 2, 4, 5)
        x = x.reshape(-1, rows, columns, width)
        return torch.roll(x, (self.shift, self.shift), (1, 2))


class Merge(nn.Module):
    """Four neighbours become one place of twice the width."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.less = nn.LayerNorm(4 * width), nn.Linear(4 * width, 2 * width, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        parts = [x[:, i::2, j::2] for i in (0, 1) for j in (0, 1)]
        return self.less(self.norm(torch.cat(parts, -1)))


class Swin(nn.Module):
    def __init__(self, width: int = 16) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, 4, 4)
        self.blocks = nn.Sequential(Window(width, 2, 4, 0), Window(width, 2, 4, 2), Merge(width))
        self.last, self.head = Window(2 * width, 4, 4, 0), nn.Linear(2 * width, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.last(self.blocks(self.patches(x).permute(0, 2, 3, 1)))
        return self.head(x.mean((1, 2)))


def swin() -> Made:
    return settle(Swin()), image()


NETWORKS = (
    *("resnet", "densenet", "inception", "mobilenet", "mobilenet_v3", "efficientnet"),
    *("shufflenet", "convnext", "unet", "vit", "swin"),
)
