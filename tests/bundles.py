"""Manifests for tests that need two halves and a contract, and nothing else of a bundle."""

from collections.abc import Sequence

from splitc.contract import Contract
from splitc.records import Manifest, Passes, Segment, Selftest, Source, TensorRecord


def described(
    segments: Sequence[Segment],
    contract: Contract,
    inputs: Sequence[TensorRecord] = (),
    outputs: Sequence[TensorRecord] = (),
) -> Manifest:
    """Return a manifest of these halves; it lists no files."""
    return Manifest(
        version=1,
        splitc="",
        source=Source(model="net.onnx", fingerprint=""),
        inputs=tuple(inputs),
        outputs=tuple(outputs),
        passes=Passes(text=""),
        request={},
        segments=tuple(segments),
        head_nodes=(),
        contract=contract,
        plan={},
        certificate={},
        checks=(),
        selftest=Selftest(samples=0, inputs="", boundary="", outputs="", kind="", tolerance=0.0),
        libraries={},
        files={},
    )


def record(name: str, dtype: str, *shape: int | str) -> TensorRecord:
    """Return an input or output of the whole model."""
    return TensorRecord(name=name, dtype=dtype, shape=shape)
