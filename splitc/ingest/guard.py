"""Turn what a library raises over a malformed graph into an error that the user can act on."""

from collections.abc import Iterator
from contextlib import contextmanager

from splitc.errors import ModelError
from splitc.quiet import quiet

_COMPLAINTS = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, AssertionError),
    *(RuntimeError, OverflowError, MemoryError),
)


@contextmanager
def malformed(where: str) -> Iterator[None]:
    """Within this, a complaint of onnx or onnx_ir becomes a `ModelError` with its first cause."""
    try:
        with quiet():
            yield
    except _COMPLAINTS as error:
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        text = " ".join(str(cause).split())[:400] or type(cause).__name__
        raise ModelError(f"malformed graph: {text}", where=where) from error
