"""Small configurations of networks of the package transformers, random weights, as factories."""

from typing import Any

import torch
from _lift_networks import Made, settle
from torch import Tensor


def _pretrained_shape(kind: str, example: dict[str, Any], **sizes: Any) -> Made:
    """Return a small network of the library transformers, from a configuration; random weights."""
    import transformers

    config = transformers.AutoConfig.for_model(kind, **sizes)
    config.use_cache = False
    config.return_dict = False
    torch.manual_seed(0)
    return settle(transformers.AutoModel.from_config(config)), example  # type: ignore[return-value]


def _ids() -> Tensor:
    return torch.randint(0, 99, (1, 16), generator=torch.Generator().manual_seed(1))


def _text(kind: str, **sizes: Any) -> Made:
    ids = _ids()
    example = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    return _pretrained_shape(kind, example, vocab_size=99, **sizes)


def _picture(kind: str, size: int = 64, **sizes: Any) -> Made:
    generator = torch.Generator().manual_seed(1)
    example = {"pixel_values": torch.randn(1, 3, size, size, generator=generator)}
    return _pretrained_shape(kind, example, **sizes)


_SMALL = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 64,
}


def hf_bert() -> Made:
    return _text("bert", **_SMALL)


def hf_distilbert() -> Made:
    return _text("distilbert", dim=32, n_layers=2, n_heads=4, hidden_dim=64)


def hf_gpt2() -> Made:
    return _text("gpt2", n_embd=32, n_layer=2, n_head=4, n_positions=64)


def hf_llama() -> Made:
    return _text("llama", **_SMALL, num_key_value_heads=2)


def hf_vit() -> Made:
    return _picture("vit", image_size=64, **_SMALL)


def hf_swin() -> Made:
    return _picture(
        "swin", image_size=64, embed_dim=16, depths=[2, 2], num_heads=[2, 4], window_size=4
    )


def hf_convnext() -> Made:
    return _picture("convnext", hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 2, 1])


def hf_resnet() -> Made:
    return _picture("resnet", embedding_size=16, hidden_sizes=[16, 24, 32, 48], depths=[1, 1, 1, 1])


def hf_mobilenet_v2() -> Made:
    return _picture("mobilenet_v2", depth_multiplier=0.35, image_size=64)


def hf_efficientnet() -> Made:
    return _picture(
        "efficientnet", width_coefficient=0.25, depth_coefficient=0.3, hidden_dim=320, image_size=64
    )


NETWORKS = (
    *("hf_bert", "hf_distilbert", "hf_gpt2", "hf_llama", "hf_vit", "hf_swin", "hf_convnext"),
    *("hf_resnet", "hf_mobilenet_v2", "hf_efficientnet"),
)
