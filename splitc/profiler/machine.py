"""Facts of this machine: target triple, core, instruction sets, memory, and its bandwidth."""

import os
import platform
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_CPUINFO = Path("/proc/cpuinfo")
_LEVELS = (
    ("x86-64-v4", ("avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")),
    ("x86-64-v3", ("avx2", "bmi1", "bmi2", "f16c", "fma", "movbe")),
    ("x86-64-v2", ("popcnt", "sse4_1", "sse4_2", "ssse3")),
)
"""x86-64 microarchitecture levels and the flags that set them apart (System V psABI)."""

_FEATURES = {
    "avx2": "avx2",
    "fma": "fma",
    "avx512f": "avx512f",
    "avx512_vnni": "avx512vnni",
    "avx_vnni": "avxvnni",
    "amx_int8": "amx-int8",
    "asimd": "neon",
    "asimdhp": "fullfp16",
    "asimddp": "dotprod",
    "i8mm": "i8mm",
    "sve": "sve",
}
"""Linux's name of an instruction set → LLVM's."""

_ARM_PARTS = {
    "0xd03": "cortex-a53",
    "0xd05": "cortex-a55",
    "0xd07": "cortex-a57",
    "0xd08": "cortex-a72",
    "0xd0b": "cortex-a76",
    "0xd42": "cortex-a78ae",
    "0xd0c": "neoverse-n1",
    "0xd40": "neoverse-v1",
    "0xd49": "neoverse-n2",
    "0xd4f": "neoverse-v2",
}
"""Main ID register part numbers of Arm's cores (Arm's reference manuals) → LLVM's name."""

_BLOCK = 64 * 2**20


def triple() -> str:
    """Return the target triple as compilers spell it."""
    machine = platform.machine().lower().replace("amd64", "x86_64")
    if platform.system() == "Darwin":
        return f"{machine.replace('aarch64', 'arm64')}-apple-darwin"
    if platform.system() == "Windows":
        return f"{machine}-pc-windows-msvc"
    return "armv7l-linux-gnueabihf" if machine.startswith("armv7") else f"{machine}-linux-gnu"


def cpuinfo(text: str | None = None) -> dict[str, str]:
    """Return the first core's entries of /proc/cpuinfo (empty where there is none)."""
    if text is None:
        text = _CPUINFO.read_text("utf-8", "replace") if _CPUINFO.exists() else ""
    lines = (line.partition(":") for line in text.strip().split("\n\n")[0].splitlines())
    return {key.strip(): value.strip() for key, _, value in lines}


def core(info: dict[str, str]) -> str:
    """Return LLVM's name of the core: an x86-64 level, an Arm core, or 'generic'."""
    flags = set(info.get("flags", "").split())
    level = next((name for name, needs in _LEVELS if flags >= set(needs)), "")
    return level or _ARM_PARTS.get(info.get("CPU part", ""), "x86-64" if flags else "generic")


def features(info: dict[str, str]) -> tuple[str, ...]:
    """Return the instruction sets that matter to kernels, in LLVM's spelling."""
    flags = (info.get("flags") or info.get("Features") or "").split()
    return tuple(name for flag, name in _FEATURES.items() if flag in flags)


def memory_bytes() -> int:
    """Return the bytes of memory that this process may use: the machine's, or its group's limit."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    limit = Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text("ascii").strip() if limit.exists() else ""
    return min(total, int(text)) if text.isdigit() else total


def summary(info: dict[str, str], threads: int) -> str:
    """Describe the processor in one line."""
    name = info.get("model name") or platform.processor() or platform.machine()
    return f"{name}, {threads} of {os.cpu_count()} cores, as measured"


def governor() -> str:
    """Return the frequency governor, or 'unknown' where the system shows none."""
    path = Path("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return path.read_text("ascii").strip() if path.exists() else "unknown"


def bandwidth_gb_s(threads: int, seconds: float) -> float:
    """Measure GB/s, read plus written, while `threads` threads copy 64 MiB each: median of sums.

    Each thread's clock is its own CPU time: waiting for memory counts, another process does not.
    """
    blocks = [(np.ones(_BLOCK // 8), np.zeros(_BLOCK // 8)) for _ in range(threads)]
    rates: list[float] = []
    end = time.perf_counter() + seconds
    with ThreadPoolExecutor(threads) as pool:
        while time.perf_counter() < end or len(rates) < 3:
            rates.append(sum(pool.map(_copy_gb_s, blocks)))
    return float(np.median(rates))


def _copy_gb_s(pair: tuple[NDArray[np.float64], NDArray[np.float64]]) -> float:
    begin = time.thread_time()
    np.copyto(pair[1], pair[0])
    return 2 * _BLOCK / (time.thread_time() - begin) / 1e9
