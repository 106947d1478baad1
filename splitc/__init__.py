"""splitc, a compiler for split computing: one trained network, two machines, and their wire.

The Python API is the command line without printing: same names, same options.
Nothing heavy is imported until a name is used.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

__version__ = "0.1.0"

_WHERE = {
    "load": "splitc.ingest",
    "inspect": "splitc.api",
    "cuts": "splitc.api",
    "plan": "splitc.api",
    "compile": "splitc.api",
    "optimize": "splitc.api",
    "sensitivity": "splitc.api",
    "verify": "splitc.api",
    "check": "splitc.api",
    "finish": "splitc.api",
    "open_head": "splitc.runtime",
    "open_tail": "splitc.runtime",
}
__all__ = ["__version__", *_WHERE]

if TYPE_CHECKING:
    from splitc.api import check as check
    from splitc.api import compile as compile
    from splitc.api import cuts as cuts
    from splitc.api import finish as finish
    from splitc.api import inspect as inspect
    from splitc.api import optimize as optimize
    from splitc.api import plan as plan
    from splitc.api import sensitivity as sensitivity
    from splitc.api import verify as verify
    from splitc.ingest import load as load
    from splitc.runtime import open_head as open_head
    from splitc.runtime import open_tail as open_tail


def __getattr__(name: str) -> object:
    if name not in _WHERE:
        raise AttributeError(f"module 'splitc' has no attribute {name!r}")
    return getattr(import_module(_WHERE[name]), name)


class _Package(ModuleType):
    """Keeps `splitc.plan` the function when the folder `splitc/plan` is imported, and so on."""

    def __setattr__(self, name: str, value: object) -> None:
        if not (name in _WHERE and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package
