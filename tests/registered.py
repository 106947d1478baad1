"""Passes of a test's own, known by name while it runs."""

from typing import Any

import pytest

from splitc import pipeline, plugins


def register(monkeypatch: pytest.MonkeyPatch, *made: type[pipeline.Pass]) -> None:
    """Let pipelines name these classes; nothing is imported, so there is no second copy of one."""
    own = {one.name: one for one in made}
    load = plugins.load

    def found(group: str, name: str, table: Any, **more: Any) -> object:
        return own[name] if name in own else load(group, name, table, **more)

    for one in made:
        monkeypatch.setitem(pipeline.BUILT_IN, one.name, f"{one.__module__}:{one.__name__}")
    monkeypatch.setattr(plugins, "load", found)
