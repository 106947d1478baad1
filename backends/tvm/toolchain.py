"""Import TVM without what it imports only because it is there.

tvm_ffi looks for torch to convert tensors that never come up here; that import alone takes seconds
and 200 MB. Torch is hidden while TVM is imported, unless it is loaded already.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from splitc.errors import BackendError

INSTALL = "pip install 'splitc[tvm]'"


def tvm() -> Any:
    """Import and return `tvm`; raises `BackendError` where it, or a library of it, is missing."""
    return needed("tvm")


def needed(name: str) -> Any:
    """Import and return a package of TVM's; raises `BackendError` where it cannot be."""
    try:
        with without_torch():
            return import_module(name)
    except (ImportError, OSError) as error:
        raise BackendError(f"{name} cannot be loaded: {error}", where=name, hint=INSTALL) from error


@contextmanager
def without_torch() -> Iterator[None]:
    """Import what follows as if torch were not installed, unless it is loaded already."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules["torch"]
