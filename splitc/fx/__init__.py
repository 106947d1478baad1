"""The trainable view of a model: lift ONNX into torch.fx, change it, write it back; or splice."""

from splitc.fx.lifting import lift
from splitc.fx.splicing import splice
from splitc.fx.writing import write_back

__all__ = ["lift", "splice", "write_back"]
