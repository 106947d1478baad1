"""Entry points: the example vendor's package is installed elsewhere, and used."""

import json
import os
import subprocess
import sys
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from splitc import plugins
from splitc.errors import BackendError, RequestError

ROOT = Path(__file__).resolve().parent.parent
VENDOR = ROOT / "examples" / "plugin_vendor"


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Install the vendor's package, without network, into a folder of its own."""
    pytest.importorskip("hatchling", reason="builds the vendor's package with hatchling")
    folder = tmp_path_factory.mktemp("site")
    quiet = ("-q", "--no-deps", "--no-build-isolation", "--no-index")
    command = ("-m", "pip", "install", *quiet, "--target")
    subprocess.run([sys.executable, *command, folder, VENDOR], check=True, cwd=folder)
    return folder


def python(site: Path, code: str) -> str:
    """Run `code` where splitc and the vendor's package are both importable."""
    path = os.pathsep.join((str(ROOT), str(site)))
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": path},
        cwd=site,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


MODEL = """
import onnx, numpy as np, splitc, json
text = '''<ir_version: 10, opset_import: ["": 21]>
g (float[4] x) => (float[4] y) { a = Identity(x)  b = Relu(a)  y = Add(b, a) }'''
onnx.save(onnx.parser.parse_model(text), 'vendor.onnx')
model = splitc.load('vendor.onnx')
"""


def test_backend(site: Path) -> None:
    code = """
from pathlib import Path
from splitc import backend
from splitc.backend import Target
assert {'acme', 'onnxruntime'} <= {line.name for line in backend.available() if line.available}
acme, target = backend.get('acme'), Target('edge')
artifact = acme.compile(model, target)
assert artifact.files == acme.compile(model, target).files
feeds = {'x': np.array([-1, 0, 1, 2], np.float32)}
print(json.dumps(acme.load(artifact)(feeds)['y'].tolist()))
"""
    assert json.loads(python(site, MODEL + code)) == [-1, 0, 2, 4]


def test_pass(site: Path) -> None:
    code = """
from splitc import pipeline
after = pipeline.run(pipeline.parse('acme-fold-identity'), model)
print(json.dumps([node.op for node in after.graph.nodes]))
"""
    assert json.loads(python(site, MODEL + code)) == ["Relu", "Add"]


def test_codec(site: Path) -> None:
    code = """
import numpy as np
from splitc.contract import BoundaryTensor, Contract
from splitc.wire import codec, frame
assert list(codec.known()) == ['acme-deflate', 'raw', 'zstd']
array = np.zeros((8, 8), np.float32)
tensor = BoundaryTensor('t', 'float32', (8, 8), codec='acme-deflate', max_bytes=256)
contract = Contract(tensors=(tensor,), gives=(), pair='ab' * 32)
packed = frame.pack([array], contract, 0)
np.testing.assert_array_equal(frame.unpack(packed, contract)[1][0], array)
print(len(packed))
"""
    assert int(python(site, code)) < 100


def test_profile(site: Path) -> None:
    code = """
from splitc import scenario
print(scenario.device('acme-edge-1').name, scenario.link('acme-bus').name)
"""
    assert python(site, code).split() == ["acme-edge-1", "acme-bus"]


def test_all_four_in_one_compile(site: Path) -> None:
    code = """
from splitc.cli import main
command = 'compile vendor.onnx --head acme-edge-1 --tail nvidia-a100 --link acme-bus'
options = '--wire acme-deflate --head-backend acme --passes acme-fold-identity --cut @output'
assert main([*command.split(), *options.split(), '-o', 'made', '--json']) == 0
assert (Path('made') / 'head/acme-edge-1/program.acme').is_file()
"""
    out = python(site, MODEL + "from pathlib import Path\n" + code)
    checks = {check["name"]: check["status"] for check in json.loads(out)["checks"]}
    assert checks["head acme y"] == "pass", "what the chip computes was compared"
    assert checks["model output y"] == "pass"


def test_verify_loads_what_a_vendor_compiled_only_when_told(site: Path) -> None:
    compiling = """
from splitc import backend, verify
from splitc.backend import Target
splitc.compile('vendor.onnx', head='acme-edge-1', tail='nvidia-a100', link='acme-bus',
               head_backend='acme', cut='@output', output='told')
said = []
plain = splitc.verify('told')
full = splitc.verify('told', compiled=True, progress=lambda *line: said.append(line))
print(json.dumps([[c.name for c in plain.checks], {c.name: c.status for c in full.checks}, said]))
"""
    plain, full, said = json.loads(python(site, MODEL + compiling))
    assert "head acme y" not in plain
    assert full["head acme y"] == "pass"
    assert said == [["load", "native code: head/acme-edge-1/program.acme (acme)"]]
    gone = """
import sys
sys.path = [path for path in sys.path if path and not path.endswith('site0')]
report = splitc.verify('told', compiled=True)
print(json.dumps([[c.status, c.detail] for c in report.checks if c.name == 'head acme']))
"""
    assert site.name == "site0"
    ((status, detail),) = json.loads(python(site, "import json, splitc\n" + gone))
    assert status == "not-run"
    assert "unknown backend 'acme'" in detail


def fake(monkeypatch: pytest.MonkeyPatch, **points: str) -> None:
    found = [EntryPoint(name, target, "splitc.backends") for name, target in points.items()]
    monkeypatch.setattr(plugins, "entry_points", lambda group: found)


def test_a_taken_name_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, onnxruntime="evil:Backend")
    with pytest.raises(
        BackendError, match=r"'onnxruntime' in 'splitc\.backends', but that name is"
    ):
        plugins.lookup("splitc.backends", {"onnxruntime": "a:B"}, error=BackendError)


def test_merged_in_alphabetical_order(monkeypatch: pytest.MonkeyPatch) -> None:
    fake(monkeypatch, zeta="z:Z", alpha="a:A")
    found = plugins.lookup("splitc.backends", {"middle": "m:M"})
    assert list(found.items()) == [("alpha", "a:A"), ("middle", "m:M"), ("zeta", "z:Z")]


def test_what_cannot_be_imported_says_so() -> None:
    built_in = {"gone": "no_such_module:X", "odd": "json:nothing"}
    with pytest.raises(RequestError, match=r"backend 'gone' cannot be loaded(.|\n)*install the"):
        plugins.load("splitc.backends", "gone", built_in)
    with pytest.raises(RequestError, match=r"pass 'odd' cannot be loaded(.|\n)*json:nothing"):
        plugins.load("splitc.passes", "odd", built_in)
    with pytest.raises(RequestError, match=r"unknown codec 'godd'(.|\n)*did you mean 'odd'"):
        plugins.load("splitc.codecs", "godd", built_in)
