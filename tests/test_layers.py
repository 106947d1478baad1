"""Imports flow one way. This is the architecture diagram, executed."""

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent

LAYERS = [
    ("errors",),
    ("units", "graph", "contract", "plugins", "quiet", "narrow", "importing"),
    ("records",),
    ("wire", "manifest", "closure"),
    # one room: a model's facts may need one run of it
    ("model", "shapes", "execute", "feeds", "tables", "inference"),
    ("ingest", "macs", "scenario", "names", "comparison", "parking", "data", "scope"),
    ("cost", "pipeline", "backend", "selftest", "divergence", "accuracy", "fx", "train"),
    ("quant", "pruning", "factor"),
    ("cuts", "runtime", "request", "judging", "gate"),
    ("split", "plan", "verify", "serve", "inspection", "profiler", "recording"),
    ("bundle", "stages", "native", "search"),
    ("compile", "check", "finish", "optimizing"),
    ("sensitivity",),
    ("api",),
    ("cli",),
    ("__main__",),
]
"""A file may import what stands in lines above its own, and its own room. Lazily too: an import
inside a function is an arrow like any other. Annotations alone (`TYPE_CHECKING`) are not."""

LEAVES = {
    "passes": {
        "errors",
        "model",
        "parking",
        "shapes",
        "ingest",
        "names",
        "graph",
        "execute",
        "feeds",
        "pipeline",
        "scope",
        "data",
        "accuracy",
        "train",
        "fx",
        "quant",
        "pruning",
        "factor",
        "macs",
    },
    "backends": {"errors", "backend", "model", "narrow"},
}
"""Collections that one adds a file to: they see nouns, never the planner or the command line."""

RANK = {room: place for place, rooms in enumerate(LAYERS) for room in rooms}


def room_of(path: Path) -> str:
    """Return the room that a source file belongs to."""
    parts = path.relative_to(ROOT).parts
    return parts[0] if parts[0] in LEAVES else parts[1].removesuffix(".py")


def sources() -> Iterator[Path]:
    for path in sorted((ROOT / "splitc").glob("*")):
        if path.is_dir() and not path.is_symlink():
            yield from sorted(path.rglob("*.py"))
        elif path.suffix == ".py" and path.name != "__init__.py":
            yield path
    for leaf in LEAVES:
        yield from sorted((ROOT / leaf).rglob("*.py"))


def imported(path: Path) -> Iterator[str]:
    """Yield the rooms that a file imports, those for annotations alone left out."""
    tree = ast.parse(path.read_text("utf-8"))
    for block in [n for n in ast.walk(tree) if isinstance(n, ast.If)]:
        if ast.unparse(block.test) == "TYPE_CHECKING":
            block.body = []
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "splitc":
            yield from (alias.name for alias in node.names if alias.name != "__version__")
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("splitc."):
            yield str(node.module).split(".")[1]
        elif isinstance(node, ast.Import):
            yield from (a.name.split(".")[1] for a in node.names if a.name.startswith("splitc."))


def test_every_room_has_a_place() -> None:
    assert {room_of(path) for path in sources()} == {*RANK, *LEAVES}


def test_imports_only_look_down() -> None:
    wrong = [
        f"{path.relative_to(ROOT)} imports {other}"
        for path in sources()
        for room in [room_of(path)]
        for other in imported(path)
        if other != room
        and other not in LEAVES.get(room, set())
        and not (room in RANK and other in RANK and RANK[other] < RANK[room])
        and not (room in RANK and RANK.get(other) == RANK[room] == RANK["model"])
    ]
    assert wrong == []
