"""Small networks for tests: from ONNX text, and random DAGs with all that makes cuts hard."""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

import splitc
from splitc.model import Model

HEADER = '<ir_version: 10, opset_import: ["": 21]>\n'
SIZE = (1, 4, 6, 6)


def model(text: str, folder: Path, inputs: Sequence[str] = ()) -> Model:
    """Load a network from its ONNX text through a file, as a user's would be."""
    path = folder / "net.onnx"
    onnx.save(onnx.parser.parse_model(HEADER + text), path)
    return splitc.load(path, input=inputs)


class _Dag:
    """Grows a random graph of tensors that all have shape `SIZE`."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.inputs = [f"x{i}" for i in range(self.rng.randint(1, 3))]
        self.tensors = [*self.inputs]
        self.nodes: list[onnx.NodeProto] = []
        weights = np.random.default_rng(seed).standard_normal((3, 4, 4, 1, 1))
        self.initializers = [
            numpy_helper.from_array((w / 4).astype(np.float32), f"w{i}")
            for i, w in enumerate(weights)
        ]
        for name, value in {"two": [2], "four": [4], "one": [1], "parts": [2, 2]}.items():
            self.initializers.append(numpy_helper.from_array(np.array(value, np.int64), name))

    def pick(self) -> str:
        """Return a tensor, a recent one more often."""
        return self.rng.choice(self.tensors[-4:] if self.rng.random() < 0.7 else self.tensors)

    def add(self, op: str, inputs: Sequence[str], outputs: Sequence[str], **options: Any) -> None:
        self.nodes.append(helper.make_node(op, list(inputs), list(outputs), **options))

    def grow(self) -> None:
        """Add one operator, or a few that belong together."""
        kinds = (
            self.conv,
            self.relu,
            self.sum,
            self.parts,
            self.pieces,
            self.branch,
            self.constant,
        )
        out = f"t{len(self.nodes)}"
        self.rng.choice(kinds)(out)
        self.tensors.append(out)

    def conv(self, out: str) -> None:
        self.add("Conv", [self.pick(), f"w{self.rng.randint(0, 2)}"], [out])

    def relu(self, out: str) -> None:
        self.add(self.rng.choice(("Relu", "Sigmoid", "Tanh")), [self.pick()], [out])

    def sum(self, out: str) -> None:
        self.add("Add", [self.pick(), self.pick()], [out])

    def parts(self, out: str) -> None:
        """Split in two, join with the parts exchanged: one node with several outputs."""
        self.add("Split", [self.pick(), "parts"], [f"{out}_a", f"{out}_b"], axis=1)
        self.add("Concat", [f"{out}_b", f"{out}_a"], [out], axis=1)

    def pieces(self, out: str) -> None:
        """Slice and Concat of two different tensors, with shared bounds."""
        self.add("Slice", [self.pick(), "two", "four", "one"], [f"{out}_a"])
        self.add("Slice", [self.pick(), "two", "four", "one"], [f"{out}_b"])
        self.add("Concat", [f"{out}_a", f"{out}_b"], [out], axis=1)

    def branch(self, out: str) -> None:
        """Choose with an If between two bodies that capture outer values."""
        condition, left, right = f"{out}_c", self.pick(), self.pick()
        self.add("ReduceSum", [self.pick()], [f"{out}_s"], keepdims=0)
        self.add("Greater", [f"{out}_s", "zero"], [condition])
        bodies = {
            f"{side}_branch": helper.make_graph(
                [helper.make_node("Mul", [read, read], [f"{out}_{side}"])],
                side,
                [],
                [helper.make_tensor_value_info(f"{out}_{side}", TensorProto.FLOAT, SIZE)],
            )
            for side, read in (("then", left), ("else", right))
        }
        self.add("If", [condition], [out], **bodies)

    def constant(self, out: str) -> None:
        """Add a constant subgraph of which several nodes may read."""
        if not any("shape" in node.output for node in self.nodes):
            filler = numpy_helper.from_array(np.array([0.5], np.float32))
            self.add("Constant", [], ["shape"], value_ints=SIZE)
            self.add("ConstantOfShape", ["shape"], ["half"], value=filler)
        self.add("Mul", [self.pick(), "half"], [out])


def dag(seed: int, size: int = 9) -> onnx.ModelProto:
    """Return a random network of about `size` operators; several inputs, outputs and traps."""
    grown = _Dag(seed)
    grown.initializers.append(numpy_helper.from_array(np.array(0, np.float32), "zero"))
    for _ in range(grown.rng.randint(2, size)):
        grown.grow()
    made = grown.tensors[len(grown.inputs) :]
    outputs = [made[-1], *(t for t in made[:-1] if grown.rng.random() < 0.15)]
    ends = [
        [helper.make_tensor_value_info(t, TensorProto.FLOAT, SIZE) for t in names]
        for names in (grown.inputs, outputs)
    ]
    graph = helper.make_graph(grown.nodes, "dag", ends[0], ends[1], grown.initializers)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def random_model(seed: int, folder: Path) -> Model:
    """Load a random network through a file."""
    path = folder / f"dag{seed}.onnx"
    onnx.save(dag(seed), path)
    return splitc.load(path)
