"""What runs compiled code on a device: the two runners, the linkers, and a missing TVM."""

import platform
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir
import pytest
from numpy.typing import NDArray

from splitc import backend
from splitc.backend import Artifact, Target
from splitc.errors import BackendError
from splitc.model import Model

NEEDS_TVM = pytest.mark.skipif(find_spec("tvm") is None, reason="needs the extra splitc[tvm]")
HERE = {
    "x86_64": Target("here", "x86_64-linux-gnu", "x86-64-v3", ("avx2", "fma"), threads=1),
    "aarch64": Target("here", "aarch64-linux-gnu", "generic", ("neon",), threads=1),
}.get(platform.machine(), Target("here"))
TEXT = """<ir_version: 10, opset_import: ["": 18]>
g (float[2,3] x, int64[2] i) => (float[2,3] y, float[2,3] z) {
    a = Gather<axis = 0>(x, i)
    y = Tanh(a)
    z = Add(a, x)
}"""
X = np.linspace(-3, 3, 6, dtype=np.float32).reshape(2, 3)
ROWS = np.array([1, 0], np.int64)
WANT: dict[str, NDArray[Any]] = {"y": np.tanh(X[ROWS]), "z": X[ROWS] + X}


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A compiled head in a folder of its own."""
    folder = tmp_path_factory.mktemp("head")
    model = Model(onnx_ir.from_proto(onnx.parser.parse_model(TEXT)))
    for name, data in backend.get("tvm").compile(model, HERE).files.items():
        (folder / name).write_bytes(data)
    return folder


@NEEDS_TVM
def test_the_python_runner_runs_alone(head: Path, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=X, i=ROWS)
    words = [sys.executable, "-S", "-c", _ALONE, str(head), str(tmp_path), *_paths()]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.rstrip().endswith("ms")
    got = np.load(tmp_path / "y.npz")
    for name, want in WANT.items():
        np.testing.assert_allclose(got[name], want, rtol=0, atol=1e-6)


_ALONE = """
import sys
sys.path += sys.argv[3:]
sys.argv = ["run.py", sys.argv[1], sys.argv[2] + "/x.npz", sys.argv[2] + "/y.npz", "--threads", "1"]
path = sys.argv[1] + "/run.py"
exec(compile(open(path).read(), path, "exec"), {"__name__": "__main__"})
assert not [name for name in sys.modules if name.partition(".")[0] in ("splitc", "tvm")]
"""


def _paths() -> list[str]:
    return [path for path in sys.path if path.endswith("site-packages")]


@NEEDS_TVM
def test_the_cpp_runner_builds_and_runs(head: Path, tmp_path: Path) -> None:
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("needs g++")
    from splitc.backends.tvm.emulation import build_runner

    build_runner(compiler, tmp_path / "run", _library_folders())
    (tmp_path / "in").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "in/0.bin").write_bytes(X.tobytes())
    (tmp_path / "in/1.bin").write_bytes(ROWS.tobytes())
    words = [
        str(tmp_path / "run"),
        str(head),
        str(tmp_path / "in"),
        str(tmp_path / "out"),
        "1",
        "2",
    ]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert len(done.stdout.splitlines()) == 2
    for place, want in enumerate(WANT.values()):
        got = np.fromfile(tmp_path / "out" / f"{place}.bin", np.float32).reshape(2, 3)
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-6)
    (tmp_path / "in/1.bin").write_bytes(b"short")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "1.bin: not there, or not 16 bytes" in done.stderr


def _library_folders() -> list[Path]:
    found = []
    for package in ("tvm", "tvm_ffi"):
        spec = find_spec(package)
        assert spec is not None
        found += [Path(place) / "lib" for place in spec.submodule_search_locations or ()]
    return found


@NEEDS_TVM
@pytest.mark.parametrize("kind", ["gnu", "lld"])
def test_both_linkers_make_a_library_that_loads(kind: str, head: Path, tmp_path: Path) -> None:
    from splitc.backends.tvm import link
    from splitc.backends.tvm.compiling import compile_segment
    from splitc.backends.tvm.machine import machine

    found = getattr(link, kind)(machine(HERE))
    if found is None:
        pytest.skip({"gnu": "needs gcc", "lld": "needs the package ziglang"}[kind])
    model = Model(onnx_ir.from_proto(onnx.parser.parse_model(TEXT)))
    made = compile_segment(model, HERE, tmp_path, found)
    assert made.facts["linker"] == found.name
    for name, data in made.files.items():
        (tmp_path / name).write_bytes(data)
    got = backend.get("tvm").load(made.at(b"", tmp_path))({"x": X, "i": ROWS})
    np.testing.assert_allclose(got["y"], WANT["y"], rtol=0, atol=1e-6)
    assert head.is_dir()


@NEEDS_TVM
def test_foreign_code_says_why_it_does_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    from splitc.backends.tvm import session

    arm = "aarch64" if platform.machine() != "aarch64" else "x86_64"
    artifact = Artifact("tvm", "tvm-vm", Target("pi"), facts={"triple": f"{arm}-linux-gnu"})
    monkeypatch.setattr(session, "emulator", lambda arch: None)
    assert f"the code is {arm}, and there is no " in str(backend.get("tvm").runs_here(artifact))
    artifact = Artifact("tvm", "tvm-vm", Target("pi"), facts={"triple": "armv7l-linux-gnueabihf"})
    if platform.machine() != "armv7l":
        said = str(backend.get("tvm").runs_here(artifact))
        assert "the code is armv7, and there is no TVM runtime to emulate it with" in said


@NEEDS_TVM
@pytest.mark.skipif(not Path("/proc/cpuinfo").is_file(), reason="needs /proc/cpuinfo")
def test_code_with_instructions_that_the_processor_lacks_is_not_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    from splitc.backends.tvm import machine

    made = backend.get("tvm").compile(
        Model(onnx_ir.from_proto(onnx.parser.parse_model(TEXT))), HERE
    )
    (known,) = [names for arch, names in machine.INSTRUCTIONS.items() if arch in HERE.triple]
    assert set(str(made.facts["simd"]).split()) & set(known)  # of the processor's name, and flags
    lacking = Artifact("tvm", "tvm-vm", HERE, facts={"simd": f"{made.facts['simd']} brainwave"})
    assert backend.get("tvm").runs_here(lacking) is None  # no name of an instruction set
    monkeypatch.setitem(known, "brainwave", None)
    assert backend.get("tvm").runs_here(lacking) == "this processor has no brainwave"


def test_without_tvm_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import splitc.backends.tvm as package

    monkeypatch.setattr(package, "find_spec", lambda name: None)
    with pytest.raises(BackendError, match=r"needs apache-tvm(.|\n)*pip install 'splitc\[tvm\]'"):
        backend.get("tvm")
    line = next(line for line in backend.available() if line.name == "tvm")
    assert not line.available
    assert line.hint == "pip install 'splitc[tvm]'"
