"""int8 for networks that came in as floats: what can be int8, ranges, rounding, repair, search.

places    which nodes can compute in int8, and which follow them
ranges    calibration: the range of every activation, from data
numbers   ranges and weights → scales, zero points and integers (onnxruntime's arithmetic)
qdq       the graph: QuantizeLinear and DequantizeLinear around the chosen nodes
opset     opset 13, which int8 needs
int8      all of this for one model, any choice of nodes
bias      bias correction, one weighted node after the other
noise     signal-to-noise ratio of changed outputs; what each node alone costs
mixed     the smallest share of the work that must stay in float
stored    new initializers
half      float16 inside, float32 outside
codebook  k-means in one dimension
share     how much of a graph's work is int8
"""
