"""The trainable view of a model: lift ONNX into torch.fx, change it, write it back; or splice."""

from splitc.ingest.torch_export import require_torch

require_torch("splitc.fx: the view of a network as torch modules")

from splitc.fx.lifting import lift  # noqa: E402
from splitc.fx.splicing import splice  # noqa: E402
from splitc.fx.writing import write_back  # noqa: E402

__all__ = ["lift", "splice", "write_back"]
