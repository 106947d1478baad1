"""The part of TensorRT's Python API that splitc uses: the same in 10.12 to 11, and in RTX 1.

TensorRT ships without types. These protocols stand in for both packages' modules, so that one
builder is checked against one interface; a test holds the installed TensorRT-RTX against them.
"""

from collections.abc import Callable, Sequence
from typing import Any, Protocol

Shape = Sequence[int]


class Tensor(Protocol):
    """ITensor: an input or output of the network; a dynamic size is -1."""

    name: str
    shape: Shape


class Network(Protocol):
    """INetworkDefinition."""

    num_inputs: int

    def get_input(self, index: int) -> Tensor: ...  # noqa: D102


class ParserError(Protocol):
    """IParserError; `node` is an index into the ONNX graph, or into the body that holds it."""

    def desc(self) -> str: ...  # noqa: D102
    def node(self) -> int: ...  # noqa: D102
    def node_name(self) -> str: ...  # noqa: D102
    def node_operator(self) -> str: ...  # noqa: D102


class Parser(Protocol):
    """OnnxParser; must outlive the build, because the network points into its weights."""

    num_errors: int

    def parse_from_file(self, model: str) -> bool: ...  # noqa: D102
    def get_error(self, index: int) -> ParserError: ...  # noqa: D102


class Profile(Protocol):
    """IOptimizationProfile."""

    def set_shape(self, input: str, min: Shape, opt: Shape, max: Shape) -> None: ...  # noqa: D102


class Config(Protocol):
    """IBuilderConfig; the last two are TensorRT-RTX's own."""

    builder_optimization_level: int
    num_compute_capabilities: int

    def set_flag(self, flag: Any) -> None: ...  # noqa: D102
    def clear_flag(self, flag: Any) -> None: ...  # noqa: D102
    def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None: ...  # noqa: D102
    def add_optimization_profile(self, profile: Profile) -> int: ...  # noqa: D102
    def set_compute_capability(self, compute_capability: Any, index: int) -> bool: ...  # noqa: D102


class Builder(Protocol):
    """Builder; `build_serialized_network` returns None and never raises."""

    def create_network(self, flags: int) -> Network: ...  # noqa: D102
    def create_builder_config(self) -> Config: ...  # noqa: D102
    def create_optimization_profile(self) -> Profile: ...  # noqa: D102
    def build_serialized_network(self, network: Network, config: Config) -> Any: ...  # noqa: D102


class Context(Protocol):
    """IExecutionContext."""

    def set_input_shape(self, name: str, shape: Shape) -> bool: ...  # noqa: D102
    def set_tensor_address(self, name: str, memory: int) -> bool: ...  # noqa: D102
    def get_tensor_shape(self, name: str) -> Shape: ...  # noqa: D102
    def infer_shapes(self) -> Sequence[str]: ...  # noqa: D102
    def execute_async_v3(self, stream_handle: int) -> bool: ...  # noqa: D102


class Engine(Protocol):
    """ICudaEngine."""

    num_io_tensors: int

    def get_tensor_name(self, index: int) -> str: ...  # noqa: D102
    def get_tensor_mode(self, name: str) -> Any: ...  # noqa: D102
    def get_tensor_dtype(self, name: str) -> Any: ...  # noqa: D102
    def get_tensor_location(self, name: str) -> Any: ...  # noqa: D102
    def create_execution_context(self) -> Context: ...  # noqa: D102


class Runtime(Protocol):
    """Runtime; `deserialize_cuda_engine` returns None for an engine that does not fit."""

    def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None: ...  # noqa: D102


class TensorRT(Protocol):
    """The module `tensorrt`, or one that stands in its place."""

    __version__: str
    Builder: Callable[[Any], Builder]
    OnnxParser: Callable[[Network, Any], Parser]
    Runtime: Callable[[Any], Runtime]
    ILogger: type
    NetworkDefinitionCreationFlag: Any
    BuilderFlag: Any
    MemoryPoolType: Any
    TensorIOMode: Any
    TensorLocation: Any
