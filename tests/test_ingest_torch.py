"""Archives and factories: what comes in, and what the wall keeps out."""

import copy
import json
import os
import pickle
import shutil
import sys
import zipfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from splitc.errors import ModelError
from splitc.execute import evaluate
from splitc.feeds import draw_inputs
from splitc.ingest import load
from splitc.ingest.pt2 import write_clean
from splitc.ingest.wall import check_expression, check_tree
from splitc.quiet import quiet

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

NETS = """
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)
        self.drop, self.last = nn.Dropout(0.5), nn.Linear(4, 5)
        self.table = nn.Embedding(7, 5)
        self.fixed = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0])

    def forward(self, image, ids):
        hidden = self.drop(torch.relu(self.norm(self.conv(image)))).mean((2, 3))
        return self.last(hidden) + self.table(ids).sum(1) * self.fixed

def make():
    return Net(), (torch.randn(1, 3, 8, 8), torch.zeros(1, 4, dtype=torch.int64))

def by_name():
    return Net(), {"ids": torch.zeros(2, 4, dtype=torch.int64), "image": torch.randn(2, 3, 8, 8)}

class Three(nn.Module):
    def forward(self, x):
        if x.shape[0] != 3:
            raise ValueError("three rows only")
        return x * 2

def three():
    return Three(), torch.randn(3, 4)

class Impossible(nn.Module):
    def forward(self, x):
        return torch.from_numpy(x.numpy() + 1)

def impossible():
    return Impossible(), (torch.randn(2, 2),)

def number():
    return 3

def no_module():
    return "net", (torch.randn(1),)

def no_inputs():
    return Net(), 7

def fails():
    raise KeyError("weights.bin")

constant = 5
"""


@pytest.fixture(scope="module")
def nets(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nets")
    (folder / "splitc_test_nets.py").write_text(NETS)
    return folder


@pytest.fixture(scope="module")
def archive(nets: Path) -> Path:
    """An archive of Net, its batch symbolic, written by torch itself."""
    sys.path.insert(0, str(nets))
    try:
        import splitc_test_nets as module  # type: ignore[import-not-found]
    finally:
        sys.path.remove(str(nets))
    batch = torch.export.Dim("batch")
    net, inputs = module.by_name()
    program = torch.export.export(
        net.eval(), (), inputs, dynamic_shapes={name: {0: batch} for name in inputs}
    )
    torch.export.save(program, nets / "net.pt2")
    return nets / "net.pt2"


def torch_says(feeds: dict[str, Any]) -> Any:
    """Run Net itself on the feeds."""
    net = sys.modules["splitc_test_nets"].Net().eval()
    with torch.no_grad():
        return net(**{name: torch.from_numpy(array) for name, array in feeds.items()}).numpy()


def test_an_archive_and_a_factory_are_the_network(
    archive: Path, nets: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(nets)
    for source in (archive, "splitc_test_nets:make"):
        model = load(source)
        assert {t.name: t.shape for t in model.inputs} == {
            "image": ("batch", 3, 8, 8),
            "ids": ("batch", 4),
        }
        assert model.notes == ()
        assert model.facts.keys() == model.values.keys()
        feeds = draw_inputs(model)
        assert feeds["ids"].max() > 1
        for times in (1, 3):
            batch = {name: np.concatenate([array] * times) for name, array in feeds.items()}
            (got,) = evaluate(model, batch).values()
            np.testing.assert_allclose(got, torch_says(batch), rtol=1e-4, atol=1e-5)
    assert capfd.readouterr().out == ""


def test_a_batch_that_cannot_vary_is_fixed_with_a_note(
    nets: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(nets)
    model = load("splitc_test_nets:three")
    assert model.inputs[0].shape == (3, 4)
    assert len(model.notes) == 1
    assert "the batch is fixed at 3" in model.notes[0]


def test_the_same_bytes_in_any_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    for name in ("one", "another/deeper"):
        folder = tmp_path / name
        folder.mkdir(parents=True)
        (folder / "splitc_moving_nets.py").write_text(NETS)
        monkeypatch.chdir(folder)
        monkeypatch.delitem(sys.modules, "splitc_moving_nets", raising=False)
        load("splitc_moving_nets:by_name").save(folder / "out.onnx")
        assert sys.modules.pop("splitc_moving_nets").__file__ == str(
            folder / "splitc_moving_nets.py"
        )
        written.append((folder / "out.onnx").read_bytes())
    assert written[0] == written[1]
    assert str(tmp_path).encode() not in written[0]
    assert b"forward" not in written[0]


FACTORIES: dict[str, tuple[str, str]] = {
    "no module": ("no_such_module_here:make", "no module called 'no_such_module_here'"),
    "no attribute": ("splitc_test_nets:mak", "did you mean 'make'?"),
    "no function": ("splitc_test_nets:constant", "of type int, not a function"),
    "a number": ("splitc_test_nets:number", "a factory returns (torch.nn.Module"),
    "no network": ("splitc_test_nets:no_module", "first value is of type str"),
    "no inputs": ("splitc_test_nets:no_inputs", "second value is of type int"),
    "it fails": ("splitc_test_nets:fails", "KeyError: 'weights.bin'"),
    "no export": ("splitc_test_nets:impossible", "torch cannot export the module: "),
    "a broken module": ("splitc_broken_nets:make", "importing 'splitc_broken_nets' fails"),
    "it leaves": ("splitc_leaving:make", "importing 'splitc_leaving' fails"),
    "what it imports": ("splitc_importing:make", "install 'no_such_library'"),
    "no name": ("splitc_test_nets:", "name a factory as pkg.mod:make"),
}


@pytest.mark.parametrize(("text", "reason"), FACTORIES.values(), ids=FACTORIES)
def test_a_factory_that_does_not_work(
    nets: Path, monkeypatch: pytest.MonkeyPatch, text: str, reason: str
) -> None:
    (nets / "splitc_broken_nets.py").write_text("1 / 0")
    (nets / "splitc_leaving.py").write_text("raise SystemExit(0)")
    (nets / "splitc_importing.py").write_text("import no_such_library")
    monkeypatch.chdir(nets)
    before = list(sys.path)
    with pytest.raises(ModelError) as caught:
        load(text)
    assert reason in str(caught.value)
    assert text in str(caught.value)
    assert len(str(caught.value).splitlines()) < 12
    assert sys.path == before


def test_a_factory_that_prints_leaves_stdout_alone(
    nets: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (nets / "splitc_chatty.py").write_text(
        "print('loading')\ndef make():\n    print('making')\n    return 1, 2\n"
    )
    monkeypatch.chdir(nets)
    with pytest.raises(ModelError):
        load("splitc_chatty:make")
    said = capfd.readouterr()
    assert said.out == ""
    assert said.err == "loading\nmaking\n"


def test_without_torch_the_hint_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("splitc.ingest.torch_export.find_spec", lambda name: None)
    for source in ("pkg.mod:make", tmp_path / "net.pt2"):
        with pytest.raises(ModelError, match=r"pip install 'splitc\[torch\]'"):
            load(source)


# ---- the wall: every planted archive below would run code, or break, inside torch.export.load ----


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
    import io

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
        more._didModify = True
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
    import random

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
