"""Import TVM without what it imports only because it is there.

tvm_ffi looks for torch to convert tensors that never come up here; that import alone takes seconds
and 200 MB. Torch is hidden while TVM is imported, unless it is loaded already.
"""

import sys
from importlib import import_module
from typing import Any

from splitc.errors import BackendError

INSTALL = "pip install 'splitc[tvm]'"


def tvm() -> Any:
    """Import and return `tvm`; raises `BackendError` where it, or a library of it, is missing."""
    hide = "torch" not in sys.modules
    if hide:
        sys.modules["torch"] = None  # type: ignore[assignment]
    try:
        return import_module("tvm")
    except (ImportError, OSError) as error:
        raise BackendError(f"TVM cannot be loaded: {error}", where="tvm", hint=INSTALL) from error
    finally:
        if hide:
            del sys.modules["torch"]
