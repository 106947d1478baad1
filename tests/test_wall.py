"""The wall before `torch.export.load`: planted archives that would run code there, or break it."""

import copy
import io
import json
import os
import pickle
import random
import shutil
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from splitc.errors import ModelError
from splitc.ingest import load
from splitc.ingest.pt2 import write_clean
from splitc.ingest.wall import check_expression, check_tree
from splitc.quiet import quiet

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An archive of a linear layer with a constant, its batch symbolic, written by torch itself."""

    class Net(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.last, self.fixed = torch.nn.Linear(4, 3), torch.ones(3)

        def forward(self, image: Any) -> Any:
            return self.last(image) * self.fixed

    path = tmp_path_factory.mktemp("nets") / "net.pt2"
    batch = torch.export.Dim("batch")
    program = torch.export.export(
        Net().eval(), (torch.ones(2, 4),), dynamic_shapes={"image": {0: batch}}
    )
    torch.export.save(program, path)
    return path


class Planted:
    """Unpickling this writes a file."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Callable[[str], int], tuple[str]]:
        return os.system, (self.command,)


def rewritten(
    source: Path,
    target: Path,
    change: Callable[[str, bytes], bytes | None] = lambda name, data: data,
    more: dict[str, bytes] | None = None,
) -> Path:
    """Copy an archive; `change` maps (member, bytes) to new bytes or None (left out)."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for info in old.infolist():
            name = info.filename.partition("/")[2]
            if (data := change(name, old.read(info))) is not None:
                new.writestr(info.filename, data)
        for name, data in (more or {}).items():
            new.writestr(name, data)
    return target


def pickled(marker: Path, legacy: bool) -> bytes:
    """Return bytes that torch.load runs: a bare pickle, or one in torch's own zip."""
    planted = Planted(f"touch {marker}")
    if legacy:
        return pickle.dumps(planted)
    sink = io.BytesIO()
    torch.save(((planted,), {}), sink)
    return sink.getvalue()


@pytest.mark.parametrize("legacy", [True, False])
def test_planted_sample_inputs_do_not_run(archive: Path, tmp_path: Path, legacy: bool) -> None:
    marker = tmp_path / "it_ran"
    data = pickled(marker, legacy)
    bad = rewritten(
        archive, tmp_path / "bad.pt2", lambda n, d: data if n.startswith("data/sample") else d
    )
    with pytest.raises(ModelError, match=r"loading it would run its code(.|\n)*sample_inputs"):
        load(bad)
    assert not marker.exists()
    with quiet(), suppress(AssertionError, RuntimeError):
        torch.export.load(bad)  # the plant is real: torch alone runs it
    assert marker.exists()


def in_program(change: Callable[[Any], None]) -> Callable[[str, bytes], bytes]:
    """Return an edit of models/model.json."""

    def edit(name: str, data: bytes) -> bytes:
        if name != "models/model.json":
            return data
        program = json.loads(data)
        change(program)
        return json.dumps(program).encode()

    return edit


def first_node(**fields: Any) -> Callable[[Any], None]:
    return lambda program: program["graph_module"]["graph"]["nodes"][0].update(fields)


def a_size(text: str) -> Callable[[Any], None]:
    def change(program: Any) -> None:
        values = program["graph_module"]["graph"]["tensor_values"]
        values["image"]["sizes"][0]["as_expr"]["expr_str"] = text

    return change


def a_signature(kind: str, context: object) -> Callable[[Any], None]:
    tree = {"type": kind, "context": json.dumps(context), "children_spec": []}

    def change(program: Any) -> None:
        call = program["graph_module"]["module_call_graph"][0]["signature"]
        call["out_spec"] = json.dumps([1, tree])

    return change


def renamed(program: Any) -> None:
    program["graph_module"]["graph"]["inputs"][0]["as_tensor"]["name"] = "x=print('hi')"


def argument_names(program: Any) -> None:
    call = program["graph_module"]["module_call_graph"][0]["signature"]
    call["forward_arg_names"] = ["image=__import__('os').system('x')", "ids"]


PROGRAMS: dict[str, tuple[Callable[[Any], None], str]] = {
    "any callable": (first_node(target="torch.hub.load"), "operator 'torch.hub.load'"),
    "through a module": (first_node(target="torch.os.system"), "operator 'torch.os.system'"),
    "a file operator": (first_node(target="torch.ops.aten.from_file.default"), "from_file"),
    "a library operator": (first_node(target="torch.ops.mylib.run.default"), "mylib"),
    "compiled kernels": (first_node(target="torch.ops.higher_order.triton_kernel_wrapper_mutation"),
        "triton"),
    "python's operators": (first_node(target="_operator.methodcaller"), "methodcaller"),
    "a size that runs": (a_size("__import__('os').system('touch x')"), "size \"__import__"),
    "a size that is an attribute": (a_size("s0.__class__"), "size"),
    "a size that is a bomb": (a_size("9**(9**9)"), "size '9**(9**9)'"),
    "a signature that imports": (
        a_signature("collections.defaultdict", {"default_factory_module": "os",
            "default_factory_name": "getcwd", "dict_context": []}), "collections.defaultdict"),
    "a key that imports": (
        a_signature("builtins.dict", [{"__enum__": True, "fqn": "antigravity:x", "name": "y"}]),
        "call convention"),
    "a name that is code": (renamed, "name \"x=print('hi')\""),
    "an argument that is code": (argument_names, "is not allowed"),
}  # fmt: skip


@pytest.mark.parametrize(("change", "reason"), PROGRAMS.values(), ids=PROGRAMS)
def test_a_program_that_would_do_more_than_compute(
    archive: Path, tmp_path: Path, change: Callable[[Any], None], reason: str
) -> None:
    bad = rewritten(archive, tmp_path / "bad.pt2", in_program(change))
    with pytest.raises(ModelError) as caught:
        load(bad)
    assert reason in str(caught.value)
    assert "models/model.json" in str(caught.value)


MEMBERS: dict[str, tuple[dict[str, bytes], str]] = {
    "compiled code": ({"net/data/aotinductor/model/x.so": b"ELF"}, "compiled code"),
    "a custom object": ({"net/data/constants/custom_obj_0": b"x"}, "custom object"),
    "an opaque object": ({"net/data/constants/opaque_obj_0": b"x"}, "custom object"),
    "legacy weights": ({"net/data/weights/model.pt": b"x"}, "legacy format"),
    "a second program": ({"net/models/other.json": b"{}"}, "no part of one exported program"),
    "a path out": ({"net/../../evil": b"x"}, "leaves the archive"),
    "an absolute path": ({"/evil": b"x"}, "leaves the archive"),
    "two roots": ({"other/models/model.json": b"{}"}, "twice"),
}


@pytest.mark.parametrize(("more", "reason"), MEMBERS.values(), ids=MEMBERS)
def test_members_that_do_not_belong(
    archive: Path, tmp_path: Path, more: dict[str, bytes], reason: str
) -> None:
    with pytest.raises(ModelError, match=reason):
        load(rewritten(archive, tmp_path / "bad.pt2", more=more))


def test_files_that_are_no_archive(tmp_path: Path, archive: Path) -> None:
    whole = archive.read_bytes()
    torch.save({"a": torch.ones(2)}, tmp_path / "checkpoint.pt2")
    with zipfile.ZipFile(tmp_path / "old.pt2", "w") as old:
        old.writestr("version", "8.1")
        old.writestr("serialized_exported_program.json", "{}")
    files = {
        "garbage": (b"\x80garbage" * 50, "not a .pt2 archive"),
        "empty": (b"", "not a .pt2 archive"),
        "truncated": (whole[: len(whole) // 2], "not a .pt2 archive, or a truncated one"),
        "checkpoint": ((tmp_path / "checkpoint.pt2").read_bytes(), "a pickled checkpoint"),
        "old": ((tmp_path / "old.pt2").read_bytes(), "torch 2.7 or older"),
    }
    for name, (data, reason) in files.items():
        (tmp_path / f"{name}.pt2").write_bytes(data)
        with pytest.raises(ModelError, match=reason):
            load(tmp_path / f"{name}.pt2")
    with pytest.raises(ModelError, match="cannot read the archive"):
        load(tmp_path / "nowhere.pt2")


def test_a_bomb_is_bounded(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="--max-size"):
        load(archive, max_size=1000)
    bomb = tmp_path / "bomb.pt2"
    shutil.copy(archive, bomb)
    with zipfile.ZipFile(bomb, "a", zipfile.ZIP_DEFLATED) as more:
        more.writestr("net/data/weights/weight_99", bytes(2**24))
    with pytest.raises(ModelError, match="'data/weights/weight_99' is compressed"):
        load(bomb)


def test_members_that_share_their_bytes(archive: Path, tmp_path: Path) -> None:
    """A thousand entries of the central directory that point at one member."""
    many = tmp_path / "many.pt2"
    shutil.copy(archive, many)
    with zipfile.ZipFile(many, "a") as more:
        more.writestr("net/extra/big", bytes(10**6))
        big = more.getinfo("net/extra/big")
        for index in range(100):
            entry = copy.copy(big)
            entry.filename = f"net/extra/{index}"
            more.filelist.append(entry)
            more.NameToInfo[entry.filename] = entry
        more.comment = b"so that the central directory is written anew"
    with pytest.raises(ModelError, match=r"overlap|Overlapped"):
        load(many)


def test_a_program_nested_too_deeply(archive: Path, tmp_path: Path) -> None:
    for text in (b"[" * 100_000, b'{"a":' * 600 + b"1" + b"}" * 600, b"[1]", b"\xff"):

        def deep(name: str, data: bytes, text: bytes = text) -> bytes:
            return text if name == "models/model.json" else data

        with pytest.raises(ModelError, match="JSON"):
            load(rewritten(archive, tmp_path / "bad.pt2", deep))


def test_a_weight_that_claims_to_be_huge(archive: Path, tmp_path: Path) -> None:
    def inflate(name: str, data: bytes) -> bytes:
        if not name.endswith("model_weights_config.json"):
            return data
        table = json.loads(data)
        first = next(iter(table["config"].values()))
        first["tensor_meta"]["sizes"] = [{"as_int": 2**40}]
        return json.dumps(table).encode()

    with pytest.raises(ModelError, match="claims more than --max-size"):
        load(rewritten(archive, tmp_path / "huge.pt2", inflate))


def test_damaged_archives_give_errors_and_nothing_else(archive: Path, tmp_path: Path) -> None:
    """Flipped bytes: refused by the zip's checksums or by the wall, never anything else."""
    chance, whole = random.Random(0), archive.read_bytes()
    refused = 0
    for _ in range(60):
        data = bytearray(whole)
        for _ in range(3):
            data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        (tmp_path / "bad.pt2").write_bytes(data)
        try:
            write_clean(tmp_path / "bad.pt2", tmp_path / "clean.pt2", 2**24)
        except ModelError:
            refused += 1
    assert refused > 30


def test_what_torch_is_given_holds_no_traces(archive: Path, tmp_path: Path) -> None:
    write_clean(archive, tmp_path / "clean.pt2", 2**24)
    with zipfile.ZipFile(tmp_path / "clean.pt2") as clean:
        program = clean.read("model/models/model.json")
    assert b"stack_trace" not in program
    assert json.loads(program)["guards_code"] == []


@pytest.mark.parametrize("text", [
    "Symbol('s17', positive=True, integer=True)",
    "Mul(Integer(2), Symbol('s0', positive=True, integer=True))",
    "Add(Pow(Symbol('s0'), Integer(2)), Integer(-1))",
    "FloorDiv(Symbol('s0'), Integer(2))", "s0*2 + 1", "Max(1, s0 // 4)",
    "Float('1.5', precision=53)",
])  # fmt: skip
def test_sizes_that_torch_writes(text: str) -> None:
    check_expression(text, "here")


@pytest.mark.parametrize("text", [
    "lambda: 0", "[1]", "s0.real", "open('x')", "Symbol(open('x'))", "(Symbol)('x')('y')",
    "f'{s0}'", "2**s0", "2**99", "Pow(2, Pow(2, 99))", "(((9**8)**8)**8)**8**1", "exec('1')",
    "s0 if s0 else 1", "1;2", "s0:=1", "9" * 30, "s0 in s1", "Symbol('x\\n')", "+" * 5000 + "1",
    "*s0", "",
])  # fmt: skip
def test_sizes_that_are_none(text: str) -> None:
    with pytest.raises(ModelError, match="is not allowed"):
        check_expression(text, "here")


def test_calls_of_tuples_lists_and_dicts() -> None:
    leaf: dict[str, Any] = {"type": None, "context": None, "children_spec": []}
    keys = {"type": "builtins.dict", "context": '["a", "b"]', "children_spec": [leaf, leaf]}
    check_tree(json.dumps([1, keys]), "here")
    for bad in (
        "[1, {}]",
        "[2, 3]",
        "x",
        json.dumps([2, leaf]),
        json.dumps([1, keys | {"context": '["a b"]'}]),
    ):
        with pytest.raises(ModelError):
            check_tree(bad, "here")
