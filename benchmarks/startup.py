"""How long `splitc --help` takes beside `python -c pass`: whole processes, interleaved, medians.

python benchmarks/startup.py [--repeat 15]

Prints Markdown. The command is the installed console script; target: within 150 ms of Python.
"""

import argparse
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

TARGET_MS = 150.0


def milliseconds(command: Sequence[str]) -> tuple[float, float]:
    """Run a command whose output goes nowhere; return its wall and processor time."""
    begin = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    wall = time.perf_counter() - begin
    if process.returncode:
        sys.exit(f"{command}: exit {process.returncode}")
    return 1e3 * wall, 1e3 * (usage.ru_utime + usage.ru_stime)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeat", type=int, default=15)
    args = parser.parse_args()
    bare = [sys.executable, "-c", "pass"]
    ours = [str(Path(sys.executable).with_name("splitc")), "--help"]
    for command in (bare, ours):  # files into the cache, byte code onto the disk
        milliseconds(command)
    times = [(*milliseconds(bare), *milliseconds(ours)) for _ in range(args.repeat)]
    columns = [statistics.median(column) for column in zip(*times, strict=True)]
    load = os.getloadavg()[0]
    print(
        f"Python {platform.python_version()}, {os.cpu_count()} CPUs, load {load:.1f}, "
        f"medians of {args.repeat}, interleaved.\n"
    )
    print("| time | python -c pass, ms | splitc --help, ms | difference, ms | target, ms | |")
    print("|---|---|---|---|---|---|")
    for name, python, helped in (("wall", *columns[::2]), ("processor", *columns[1::2])):
        extra = helped - python
        target = f"{TARGET_MS:.0f}" if name == "wall" else ""
        verdict = "" if not target else "met" if extra <= TARGET_MS else "**missed**"
        print(f"| {name} | {python:.0f} | {helped:.0f} | {extra:.0f} | {target} | {verdict} |")


if __name__ == "__main__":
    main()
