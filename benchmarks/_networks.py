"""Networks to measure on: the real ones of ../shared, the light ones of `onnx`, torch's shapes.

Light models ship with constant weights and constant outputs; here every ConstantOfShape weight
becomes a seeded random initializer (He scale, BatchNorm variance > 0), and the classifier is
scaled so that its Softmax does not saturate. The torch networks have random weights and statistics.
"""

import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import onnxruntime
from onnx import numpy_helper

if TYPE_CHECKING:
    from torch import nn

ROOT = Path(__file__).resolve().parent.parent
INPUTS = {"silero_vad_16k_op15": ("input=1x512",)}
"""Sizes that a network leaves open, as `--input` texts."""
TORCH = ("resnet18", "resnet50", "mobilenet_v2", "vit_b16", "bert_base")


@dataclass(frozen=True)
class Network:
    """`make(folder)` returns the file, written into `folder` where there is none yet.

    `real`: trained, and small.
    """

    name: str
    make: Callable[[Path], Path]
    inputs: tuple[str, ...] = ()
    real: bool = False


def shared() -> list[Network]:
    """List the networks beside the checkout (../shared or $SPLITC_SHARED); maybe none."""
    folder = Path(os.environ.get("SPLITC_SHARED", ROOT.parent / "shared")) / "models"
    return [
        Network(path.stem, lambda _, path=path: path, INPUTS.get(path.stem, ()), True)  # type: ignore[misc]
        for path in sorted(folder.glob("*.onnx"))
    ]


def light() -> list[Network]:
    """List the light models of the installed `onnx` package, to be filled with random weights."""
    folder = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
    return [Network(path.stem, _filled(path)) for path in sorted(folder.glob("light_*.onnx"))]


def exported() -> list[Network]:
    """List the torch networks; needs torch when one is made."""
    return [Network(f"torch_{name}", _export(name)) for name in TORCH]


def _filled(path: Path) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        target = folder / path.name
        if not target.exists():
            model = onnx.load(path)
            fill(model)
            onnx.save(model, target)
        return target

    return make


def fill(model: onnx.ModelProto, seed: int = 0) -> None:
    """Make each ConstantOfShape weight, and each float one, a random initializer, in place."""
    graph, rng = model.graph, np.random.default_rng(seed)
    table = {t.name: numpy_helper.to_array(t) for t in graph.initializer}
    made = {n.output[0]: n.input[0] for n in graph.node if n.op_type == "ConstantOfShape"}
    shapes = {name: tuple(table[shape]) for name, shape in made.items()}
    shapes |= {name: a.shape for name, a in table.items() if a.dtype == np.float32}
    dead = {*made.values(), *shapes}
    use = _uses(graph)
    _keep(graph.node, [n for n in graph.node if n.op_type != "ConstantOfShape"])
    _keep(graph.initializer, [t for t in graph.initializer if t.name not in dead])
    _keep(graph.input, [v for v in graph.input if v.name not in table])
    for name, shape in shapes.items():
        drawn = _draw(shape, *use.get(name, ("", 0)), rng)
        graph.initializer.append(numpy_helper.from_array(drawn, name))
    model.ir_version = 8
    _soften(model)


def _keep(field: Any, items: list[Any]) -> None:
    del field[:]
    field.extend(items)


def _uses(graph: onnx.GraphProto) -> dict[str, tuple[str, int]]:
    """Return tensor → (operator, place) of its first reader, looking through Unsqueeze."""
    use: dict[str, tuple[str, int]] = {}
    for node in reversed(graph.node):
        for place, name in enumerate(node.input):
            behind = use.get(node.output[0]) if node.op_type == "Unsqueeze" else None
            use[name] = behind or (node.op_type, place)
    return use


def _draw(shape: tuple[int, ...], op: str, place: int, rng: np.random.Generator) -> Any:
    if (op, place) in (("BatchNormalization", 1), ("BatchNormalization", 4), ("Mul", 1)):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    drawn = rng.standard_normal(shape, np.float32)
    return drawn * np.float32(0.1 if len(shape) < 2 else math.sqrt(2 / math.prod(shape[1:])))


def _soften(model: onnx.ModelProto) -> None:
    """Scale the last weighted layer so that logits have unit variance for a normal input."""
    last = [n for n in model.graph.node if n.op_type in ("Conv", "Gemm")][-1]
    probe = onnx.ModelProto()
    probe.CopyFrom(model)
    probe.graph.output.append(onnx.helper.make_empty_tensor_value_info(last.output[0]))
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    opened = onnxruntime.InferenceSession(
        probe.SerializeToString(), options, providers=["CPUExecutionProvider"]
    )
    rng = np.random.default_rng(1)
    feeds = {v.name: rng.standard_normal(v.shape, np.float32) for v in opened.get_inputs()}
    scale = np.float32(1 / opened.run([last.output[0]], feeds)[0].std())
    for tensor in model.graph.initializer:
        if tensor.name in last.input[1:]:
            scaled = numpy_helper.to_array(tensor) * scale
            tensor.CopyFrom(numpy_helper.from_array(scaled, tensor.name))


def _export(name: str) -> Callable[[Path], Path]:
    def export(folder: Path) -> Path:
        import _torch_networks
        import torch

        target = folder / f"torch_{name}.onnx"
        if not target.exists():
            torch.manual_seed(0)
            module, example = getattr(_torch_networks, name)()
            done = torch.onnx.export(_settled(module), example, dynamo=True, verbose=False)
            done.save(target, external_data=False)
        return target

    return export


def _settled(module: "nn.Module") -> "nn.Module":
    """Draw He weights, BatchNorm's statistics and its affine parameters; switch to inference."""
    from torch import nn

    for part in module.modules():
        if isinstance(part, nn.Conv2d):
            nn.init.kaiming_normal_(part.weight, mode="fan_in")
        if isinstance(part, nn.BatchNorm2d):
            nn.init.uniform_(part.weight, 0.5, 1.0)
            nn.init.normal_(part.bias, 0.0, 0.1)
            part.running_mean.normal_(0.0, 0.1)
            part.running_var.uniform_(0.5, 1.5)
    return module.eval()
