"""Heads for aarch64 under emulation: `tvm_emulated.py [NAME…] [--light] [--torch]`.

Each network is compiled for the profile raspberry-pi-4 (cortex-a72), run once under qemu-user at
1 thread by the C++ runner, and its outputs compared with onnxruntime's on this machine. Times under
emulation mean nothing and are not shown.
"""

import argparse
import tempfile
from pathlib import Path

import _networks
import numpy as np

import splitc
from splitc.backend import Artifact, Target
from splitc.backends.tvm import Tvm
from splitc.errors import SplitcError
from splitc.execute import evaluate
from splitc.feeds import draw
from splitc.passes.simplify import Simplify

PI = Target("raspberry-pi-4", "aarch64-linux-gnu", "cortex-a72", ("neon",), threads=1)
TOLERANCE = 1e-4


def measure(network: _networks.Network, folder: Path) -> tuple[float, int]:
    """Return the worst relative error and the size of the library in bytes."""
    model = Simplify().run(splitc.load(network.make(folder), input=network.inputs))
    made = Tvm().compile(model, PI)
    place = folder / network.name
    place.mkdir(exist_ok=True)
    for name, data in made.files.items():
        (place / name).write_bytes(data)
    feeds = draw(model, {t.name: model.facts[t.name] for t in model.inputs}, seed=0)
    got = Tvm().load(made.at(b"", place))(feeds)
    want = evaluate(model, feeds)
    errors = [np.abs(got[n] - want[n]).max() / (np.abs(want[n]).max() or 1.0) for n in want]
    return float(max(errors)), len(made.files["model.so"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*")
    parser.add_argument("--light", action="store_true", help="the light models of onnx too")
    parser.add_argument("--torch", action="store_true", help="exported torch networks too")
    args = parser.parse_args()
    try:
        why = Tvm().runs_here(Artifact("tvm", "tvm-vm", PI, facts={"simd": "+neon"}))
    except SplitcError as error:
        why = str(error.args[0])
    if why is not None:
        print(f"not run: {why}")
        return
    networks = _networks.shared() + (_networks.light() if args.light else [])
    networks += _networks.exported() if args.torch else []
    print("| network | worst error | within 1e-4 | code MB |\n|---|---|---|---|")
    right = 0
    chosen = [n for n in networks if not args.names or n.name in args.names]
    with tempfile.TemporaryDirectory() as name:
        for network in chosen:
            try:
                error, size = measure(network, Path(name))
            except SplitcError as reason:
                print(f"| {network.name} | {reason.args[0]} | no | |", flush=True)
                continue
            right += error <= TOLERANCE
            verdict = "yes" if error <= TOLERANCE else "no"
            print(f"| {network.name} | {error:.0e} | {verdict} | {size / 1e6:.2f} |", flush=True)
    print(f"\n{right} of {len(chosen)} equal within {TOLERANCE:g}")


if __name__ == "__main__":
    main()
