"""Where to cut a network that reads digits, on every link, and the two halves at work.

    make demo                                                    (the core is enough, no torch)
    .venv/bin/python examples/01_digits_camera/demo.py [--output .demo]

1. The network: trained, shipped as digits.onnx, scored here on digits it never saw.
2. The best cut for every shipped link and two devices, with the profiles as they are.
3. One bundle: compiled, verified, its halves run as two processes, compared with the whole.
"""

import argparse
import json
import shlex
import shutil
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import frames
import numpy as np
import onnxruntime as ort
from rich.console import Console
from rich.progress import track

import splitc
from splitc import scenario

HERE = Path(__file__).resolve().parent
MODEL = HERE / "digits.onnx"
DEVICES = ("raspberry-pi-4", "jetson-nano")
SERVER = "nvidia-a100"
COMPILED_FOR = ("raspberry-pi-4", "wifi")
BATCH = "frame=1..1..8x1x256x256"
"""Planned for one frame; up to 8 may cross at once."""

JPEG_BYTES = 14_098
"""Mean size of the held-out frames as JPEG, quality 85; `train.py` measures it."""

LEGEND = f"""
@input: the frame is sent; @output: all on the device; stem, waist: tensors of the network.
link = encode + uplink + round trip + decode + downlink; bytes: one frame on the wire.
* Had the camera a JPEG at hand ({JPEG_BYTES:,} bytes), sending that would be faster still:
  splitc ranks it, cannot emit it, and takes the best that it can.
"""
TITLES = {"input": "@input", "output": "@output"}


def main() -> int:
    """Run the three parts; return 0 if the halves agree with the whole."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=HERE.parent.parent / ".demo")
    folder = parser.parse_args().output.absolute()
    folder.mkdir(parents=True, exist_ok=True)
    pixels, whole = the_network()
    the_cuts(folder)
    return the_bundle(folder, pixels[:8], whole[:8])


# 1 ---------------------------------------------------------------------------------------------


def the_network() -> tuple[np.ndarray, np.ndarray]:
    """Score the network on the held-out digits; return the frames and its scores (F, 11, 8, 8)."""
    title("1. The network: 256×256 grey frames in, a digit or nothing for each 32×32 cell out")
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(MODEL, options, providers=["CPUExecutionProvider"])
    pixels, truth = frames.held_out_frames()
    parts = [
        session.run(None, {"frame": one[None]})[0] for one in progress(pixels, "reading frames")
    ]
    scores = np.concatenate(parts)
    right = (scores.argmax(1) == truth)[truth != frames.NOTHING]
    false = (scores.argmax(1) != truth)[truth == frames.NOTHING]
    error = (right.mean() * (1 - right.mean()) / right.size) ** 0.5
    print(
        f"{MODEL.name}, {MODEL.stat().st_size:,} bytes, on {len(pixels)} frames of unseen digits:"
    )
    print(f"  {right.mean():.1%} ± {error:.1%} (standard error) of {right.size} digits read right,")
    print(f"  a digit seen in {false.sum()} of {false.size} empty cells")
    return pixels, scores


# 2 ---------------------------------------------------------------------------------------------


def the_cuts(folder: Path) -> None:
    """Plan for every device and link; print the winners and write every addend to plans.json."""
    title(f"2. The best cut on every link, server {SERVER}, batch 1, milliseconds")
    model = splitc.optimize(MODEL, passes="simplify").model
    pairs = [(device, link) for device in DEVICES for link in scenario.links()]
    plans: dict[str, dict[str, Any]] = {device: {} for device in DEVICES}
    for device, link in progress(pairs, "planning"):
        found = splitc.plan(
            model, head=device, tail=SERVER, link=link.name,
            passes="", input_codec=f"jpeg:{JPEG_BYTES}", top=0,
        )  # fmt: skip
        plans[device][link.name] = found.to_json()
    for device in DEVICES:
        show_winners(device, plans[device])
    print(LEGEND)
    path = folder / "plans.json"
    path.write_text(json.dumps(plans), "utf-8")
    print(f"Every addend of every cut is in {shown(path)}. One row by hand:")
    print(f"  {command('plan', MODEL, *scene(*COMPILED_FOR))}")


def show_winners(device: str, plans: dict[str, Any]) -> None:
    """Print a row for each link, slowest first, and how often each cut wins."""
    print(f"\n{device}")
    sums = f"{'latency':>7} = {'head':>6} + {'link':>7} + {'tail':>5}"
    print(f"{'link':29} {'cut':8} {sums}  {'bytes':>6}  {'runner-up':>15}")
    for link, plan in plans.items():
        print(row(link, plan))
    wins = Counter(name(plan["chosen"]) for plan in plans.values())
    print("wins: " + ", ".join(f"{cut} {count}" for cut, count in wins.items()))


def row(link: str, plan: dict[str, Any]) -> str:
    """Return one line: the winner as a sum, what it sends, and what came second."""
    best = plan["chosen"]
    whole = [p for p in plan["ranked"] if p["emittable"] and not p.get("breaks_group")]
    rivals = [p for p in whole if name(p) != name(best)]
    mark = "" if plan["ranked"][0]["emittable"] else "*"
    ms = {key: 1e3 * value for key, value in best["addends"].items()}
    wire = sum(ms[key] for key in ("encode_s", "uplink_s", "rtt_s", "decode_s", "downlink_s"))
    return (
        f"{link:29} {name(best) + mark:8} {1e3 * best['latency_s']:7.2f} = {ms['head_s']:6.2f}"
        f" + {wire:7.2f} + {ms['tail_s']:5.2f}  {best['wire_bytes']:6,}"
        f"  {name(rivals[0]):>7} {1e3 * rivals[0]['latency_s']:7.2f}"
    )


def name(entry: dict[str, Any]) -> str:
    """What `--cut` would call this entry of a plan."""
    return TITLES.get(entry["kind"]) or ",".join(entry["tensors"])


# 3 ---------------------------------------------------------------------------------------------


def the_bundle(folder: Path, pixels: np.ndarray, whole: np.ndarray) -> int:
    """Compile, verify, take the halves apart, and read frames with them in two processes."""
    title("3. One bundle, two processes")
    bundle, data, answer = folder / "bundle", folder / "frames.npz", folder / "answer.npz"
    np.savez(data, frame=pixels)
    splitc_("compile", MODEL, *scene(*COMPILED_FOR), "--input", BATCH, "-o", bundle)
    splitc_("verify", bundle, "--model", MODEL, "--data", data)
    device = half(bundle, folder / "device", without="tail")
    server = half(bundle, folder / "server", without="head")
    with serving(server) as address:
        splitc_("run", device, "--input", data, "-o", answer, "--connect", address)
    return compare(np.load(answer)["digits"], whole)


def half(bundle: Path, copy: Path, without: str) -> Path:
    """Copy a bundle and delete one side, as it would be shipped to one machine."""
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(bundle, copy)
    shutil.rmtree(copy / without)
    print(f"\n{shown(copy)}: the bundle without {without}/")
    return copy


@contextmanager
def serving(bundle: Path) -> Iterator[str]:
    """Run `splitc serve` as a process of its own; yield HOST:PORT; end that process."""
    print(f"\n$ {command('serve', bundle, '--json')} &")
    started = subprocess.Popen(argv("serve", bundle, "--json"), stdout=subprocess.PIPE, text=True)
    try:
        assert started.stdout is not None
        line = started.stdout.readline()
        if not line:
            raise SystemExit("the server did not start")
        print(line, end="", flush=True)
        where = json.loads(line)
        yield f"{where['host']}:{where['port']}"
    finally:
        started.terminate()
        started.wait(timeout=30)


def compare(got: np.ndarray, whole: np.ndarray) -> int:
    """Print how far the halves are from the whole model; return the exit code."""
    apart = float(np.abs(got - whole).max() / np.abs(whole).max())
    same = got.shape == whole.shape and bool((got.argmax(1) == whole.argmax(1)).all())
    verdict = "the same" if same else "NOT the same"
    print(
        f"\n{len(got)} frames through two processes: the digits read are {verdict} as by the whole"
    )
    print(f"model; largest difference of a score {apart:.1e} (relative).")
    print("Frame 0 as read (· is nothing):")
    for line in got[0].argmax(0):
        print("  " + " ".join("·" if digit == frames.NOTHING else str(digit) for digit in line))
    print(f"\nNext: splitc devices; splitc links; {shown(HERE / 'README.md')}")
    return 0 if same and apart < 1e-5 else 1


# the command line ------------------------------------------------------------------------------


def scene(device: str, link: str) -> tuple[str, ...]:
    """The options that name two machines and the wire between them."""
    return ("--head", device, "--tail", SERVER, "--link", link)


def argv(*words: object) -> list[str]:
    """What runs `splitc …` with this Python."""
    return [sys.executable, "-m", "splitc", *typed(words)]


def command(*words: object) -> str:
    """What a user would type for it, in lines of a terminal's width."""
    script = Path(sys.executable).with_name("splitc")
    line = shlex.join([shown(script) if script.exists() else "splitc", *typed(words)])
    lines = textwrap.wrap(
        line, 96, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False
    )
    return " \\\n".join(lines)


def typed(words: Iterable[object]) -> list[str]:
    """The words of a command, paths as seen from here."""
    return [shown(word) if isinstance(word, Path) else str(word) for word in words]


def splitc_(*words: object) -> None:
    """Print and run one command; its own message stands where it fails."""
    print(f"\n$ {command(*words)}", flush=True)
    if code := subprocess.run(argv(*words)).returncode:
        raise SystemExit(code)


def shown(path: Path) -> str:
    """A path as seen from here, where that is shorter."""
    here = Path.cwd()
    return str(path.relative_to(here)) if path.is_relative_to(here) else str(path)


def title(text: str) -> None:
    """Print a heading."""
    print(f"\n{text}\n{'-' * len(text)}", flush=True)


def progress(things: Iterable[Any], what: str) -> Iterable[Any]:
    """Go through `things` with a bar on stderr."""
    return track(list(things), what, console=Console(stderr=True), transient=True)


if __name__ == "__main__":
    sys.exit(main())
