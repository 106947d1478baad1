"""The network of the digits camera, in torch: a narrow stem, a narrow waist, a heavy trunk.

Fully convolutional: trained on crops, used on whole frames. For each 32×32 cell of a grey 8-bit
frame it gives 11 scores: the digits 0 to 9, and nothing. The two narrow places follow BottleNet
(Eshratifar et al., 2019, arXiv 1902.01000): few channels to send, restored behind them; they have
no rectifier (MobileNetV2's linear bottleneck). Shapes in comments: a frame of 256×256.
"""

import torch
from torch import Tensor, nn

CLASSES = 11


def conv(
    inputs: int, outputs: int, stride: int = 1, size: int = 3, linear: bool = False
) -> nn.Sequential:
    """Convolution, batch normalisation (folded away on export), rectifier unless `linear`."""
    layers = (
        nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False),
        nn.BatchNorm2d(outputs),
    )
    return nn.Sequential(*layers) if linear else nn.Sequential(*layers, nn.ReLU())


class Residual(nn.Module):
    """Two convolutions and the way around them."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.body = nn.Sequential(conv(width, width), conv(width, width, linear=True))

    def forward(self, x: Tensor) -> Tensor:
        """(N, width, H, W) → the same shape."""
        return torch.relu(x + self.body(x))


class DigitsCamera(nn.Module):
    """uint8 (N, 1, H, W) → float32 (N, 11, H/32, W/32): a score for each class in each cell."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            conv(1, 8, stride=2), conv(8, 16, stride=2), conv(16, 4, stride=2, linear=True)
        )  # 4×32×32
        self.waist = nn.Sequential(
            conv(4, 32), conv(32, 48, stride=2), Residual(48), conv(48, 4, linear=True)
        )  # 4×16×16
        self.restore = nn.Sequential(conv(4, 48, size=1), nn.Upsample(scale_factor=2))  # 48×32×32
        self.trunk = nn.Sequential(*(Residual(48) for _ in range(5)))  # 48×32×32
        self.read = nn.Sequential(
            conv(48, 64, stride=2), conv(64, 64, stride=2), nn.Conv2d(64, CLASSES, 1)
        )  # 11×8×8

    def scaled(self, frame: Tensor) -> Tensor:
        """Bytes → floats from -1 to 1."""
        return frame.float() / 128 - 1

    def forward(self, frame: Tensor) -> Tensor:
        """Score every cell of every frame."""
        waist = self.waist(self.stem(self.scaled(frame)))
        scores: Tensor = self.read(self.trunk(self.restore(waist)))
        return scores
