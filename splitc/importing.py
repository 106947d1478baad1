"""The user's own functions, named `pkg.mod:fn`: find one, and call it.

This executes code with the user's rights: it is for one's own functions, never for somebody
else's. Modules are looked for in the current directory first.
"""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from typing import Any

from splitc.errors import RequestError, SplitcError, did_you_mean


@contextmanager
def importable() -> Iterator[None]:
    """Put the current directory first on `sys.path` meanwhile; what is printed goes to stderr."""
    before = list(sys.path)
    sys.path.insert(0, os.getcwd())
    importlib.invalidate_caches()
    try:
        with redirect_stdout(sys.stderr):
            yield
    finally:
        sys.path[:] = before


def function(
    text: str, *, shape: str, spelling: str, error: type[SplitcError] = RequestError
) -> Callable[..., Any]:
    """Import what ``pkg.mod:attribute`` names; call this inside `importable()`.

    `shape` says what the function must look like, `spelling` how to name one: hints of the
    `error` that is raised for text that names nothing, or a module that fails.
    """
    check_spelling(text, spelling, error)
    module, _, attribute = text.partition(":")
    found = _module(module, text, error)
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [name for name in vars(found) if not name.startswith("_")]
            raise error(f"no {part!r} in {module!r}", where=text, hint=did_you_mean(part, names))
        found = getattr(found, part)
    if not callable(found):
        kind = type(found).__name__
        raise error(f"{attribute!r} is of type {kind}, not a function", where=text, hint=shape)
    return found  # type: ignore[no-any-return]


def check_spelling(text: str, spelling: str, error: type[SplitcError] = RequestError) -> None:
    """Raise `error`, hinting at `spelling`, unless `text` reads ``pkg.mod:attribute``."""
    module, _, attribute = text.partition(":")
    if not all(part.isidentifier() for part in (*module.split("."), *attribute.split("."))):
        raise error(f"cannot read {text!r}", hint=spelling)


def _module(name: str, where: str, error: type[SplitcError]) -> Any:
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as cause:
        missing = str(cause.name)
        ours = name == missing or name.startswith(f"{missing}.")
        here = "run splitc in the folder that holds it, or install it"
        hint = here if ours else f"install {missing!r}"
        raise error(f"no module called {missing!r}", where=where, hint=hint) from cause
    except (Exception, SystemExit) as cause:  # somebody's module may raise anything
        raise error(f"importing {name!r} fails: {reason(cause)}", where=where) from cause


def call(
    made: Callable[..., Any],
    *given: Any,
    what: str,
    where: str,
    hint: str = "",
    error: type[SplitcError] = RequestError,
) -> Any:
    """Call the user's function; whatever it raises becomes ``error("{what} fails: …")``."""
    try:
        with importable():
            return made(*given)
    except (Exception, SystemExit) as cause:  # somebody's function, too
        raise error(f"{what} fails: {reason(cause)}", where=where, hint=hint) from cause


def reason(error: BaseException) -> str:
    """Return the innermost cause of an error on one line, at most 400 characters."""
    while (cause := error.__cause__ or error.__context__) is not None:
        error = cause
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {' '.join(lines)[:400]}"
