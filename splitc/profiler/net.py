"""A pencil for small networks with seeded random weights: the probes that a profile measures."""

from typing import Any

import numpy as np
import onnx_ir as ir

from splitc.model import Model
from splitc.shapes import infer

OPSET = 18


class Net:
    """Draws one network: `x = net.input(…)`, `x = net.conv(x, …)`, `net.model(x)`."""

    def __init__(self, name: str) -> None:
        self.name = name
        self._tape = ir.tape.Tape()
        self._inputs: list[ir.Value] = []
        self._rng = np.random.default_rng(0)
        self._count = 0

    def input(self, *shape: int, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        """Add a graph input."""
        name = f"x{len(self._inputs)}"
        self._inputs.append(ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape(shape)))
        return self._inputs[-1]

    def weight(self, *shape: int) -> ir.Value:
        """Add a float32 initializer, He scale over all but its first axis."""
        fan = int(np.prod(shape[1:])) or 1
        return self.constant(self._rng.standard_normal(shape, np.float32) * (2.0 / fan) ** 0.5)

    def constant(self, value: Any) -> ir.Value:
        """Add an initializer of this value."""
        self._count += 1
        return self._tape.initializer(ir.tensor(np.asarray(value), name=f"w{self._count}"))

    def op(self, kind: str, *inputs: ir.Value | None, **attributes: Any) -> ir.Value:
        """Apply an operator with one output."""
        return self._tape.op(kind, inputs, attributes)

    def conv(
        self, x: ir.Value, cin: int, cout: int, kernel: int, stride: int = 1, group: int = 1
    ) -> ir.Value:
        """Convolve with 'same' padding and a bias."""
        pad = kernel // 2
        weight, bias = (
            self.weight(cout, cin // group, kernel, kernel),
            self.constant(np.zeros(cout, np.float32)),
        )
        shape = {"kernel_shape": [kernel] * 2, "strides": [stride] * 2, "pads": [pad] * 4}
        return self.op("Conv", x, weight, bias, group=group, **shape)

    def gemm(self, x: ir.Value, rows: int, columns: int) -> ir.Value:
        """Multiply (n, rows) by a (rows, columns) weight and add a bias."""
        return self.op(
            "Gemm", x, self.weight(rows, columns), self.constant(np.zeros(columns, np.float32))
        )

    def model(self, *outputs: ir.Value) -> Model:
        """Close the network: these values are its outputs."""
        graph = ir.Graph(
            self._inputs,
            outputs,
            nodes=self._tape.nodes,
            initializers=self._tape.initializers,
            opset_imports={"": OPSET},
            name=self.name,
        )
        model = ir.Model(graph, ir_version=10)
        infer(model)
        return Model(model, source=self.name)
