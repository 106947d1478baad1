"""Small torch networks over words and sounds, random weights, as factories."""

import torch
from _lift_networks import Layer, Made, settle
from torch import Tensor, nn
from torch.nn import functional


class Bert(nn.Module):
    """Devlin et al. 2019: three embeddings, a mask, post-norm blocks by torch's own layer."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.words, self.kinds = nn.Embedding(100, width), nn.Embedding(2, width)
        self.places, self.norm = nn.Embedding(64, width), nn.LayerNorm(width, 1e-12)
        layer = nn.TransformerEncoderLayer(width, 4, 64, activation="gelu", batch_first=True)
        self.blocks = nn.ModuleList(
            type(layer)(width, 4, 64, activation="gelu", batch_first=True) for _ in range(2)
        )
        self.pool = nn.Linear(width, width)

    def forward(self, ids: Tensor, mask: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor]:
        place = torch.arange(ids.shape[1], device=ids.device)
        x = self.norm(self.words(ids) + self.kinds(kinds) + self.places(place))
        for block in self.blocks:
            x = block(x, src_key_padding_mask=mask == 0)
        return x, torch.tanh(self.pool(x[:, 0]))


def bert() -> Made:
    ids = torch.randint(0, 100, (1, 24), generator=torch.Generator().manual_seed(1))
    return settle(Bert()), (ids, torch.ones_like(ids), torch.zeros_like(ids))


class Gpt(nn.Module):
    """Radford et al. 2019: causal blocks; the output shares the table of words."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(100, width), nn.Embedding(64, width)
        self.blocks = nn.ModuleList(Layer(width, 4, causal=True) for _ in range(2))
        self.norm = nn.LayerNorm(width)

    def forward(self, ids: Tensor) -> Tensor:
        x = self.words(ids) + self.places(torch.arange(ids.shape[1], device=ids.device))
        for block in self.blocks:
            x = block(x)
        return functional.linear(self.norm(x), self.words.weight)


def gpt2() -> Made:
    return settle(Gpt()), (
        torch.randint(0, 100, (1, 24), generator=torch.Generator().manual_seed(1)),
    )


class Spoken(nn.Module):
    """Convolution in time, recurrent layers one way and both ways, a dense end."""

    def __init__(self, kind: type[nn.LSTM] | type[nn.GRU]) -> None:
        super().__init__()
        self.conv = nn.Conv1d(8, 16, 5, padding=2)
        self.one = kind(16, 12, batch_first=True)
        self.two = kind(12, 10, bidirectional=True, batch_first=True)
        self.head = nn.Linear(20, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.relu(self.conv(x)).transpose(1, 2)
        x, _ = self.one(x)
        x, _ = self.two(x)
        return self.head(x.mean(1))


def lstm() -> Made:
    return settle(Spoken(nn.LSTM)), (torch.randn(1, 8, 20),)


def gru() -> Made:
    return settle(Spoken(nn.GRU)), (torch.randn(1, 8, 20),)


NETWORKS = ("bert", "gpt2", "lstm", "gru")
