"""What a command may import: `--help` next to nothing, the lists nothing of onnx or torch."""

import json
import subprocess
import sys

import pytest

HEAVY = {"numpy", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "onnxsim", "rich", "scipy"} | {
    "sympy",
    "torch",
    "zstandard",
}
CODE = """
import json, sys
from splitc.cli import main
assert main(json.loads(sys.argv[1])) == 0
print(json.dumps(sorted({name.partition('.')[0] for name in sys.modules})))
"""


def imported(*arguments: str) -> set[str]:
    """Return the packages that are loaded after a command, in a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", CODE, json.dumps(arguments)],
        capture_output=True,
        text=True,
        check=True,
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize("command", ["", "compile", "plan", "verify", "run", "serve", "cuts"])
def test_help_imports_nothing_heavy(command: str) -> None:
    found = imported(*filter(None, (command, "--help")))
    assert "click" in found
    assert not found & HEAVY


def test_what_is_heavy_is_seen() -> None:
    assert {"numpy", "onnxruntime"} <= imported("backends", "--json") & HEAVY


def test_the_package_is_light_until_a_name_is_used() -> None:
    code = "import sys, splitc; print(sorted(m for m in sys.modules if 'numpy' in m)); splitc.load"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
