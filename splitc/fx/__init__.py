"""The trainable view of a model: lift ONNX into torch.fx, change it, write it back."""

from splitc.fx.lifting import lift
from splitc.fx.writing import write_back

__all__ = ["lift", "write_back"]
