"""Exact 8-bit products are asked for where the processor needs it, and nowhere else."""

import platform
from pathlib import Path

import pytest

from splitc import narrow

FLAGS = "processor : 0\nflags\t\t: fpu sse4_2 avx2 {more}\nbugs\t\t:\n"
CASES = {
    "x86 without VNNI": ("x86_64", FLAGS.format(more="fma"), True),
    "AVX-512 with VNNI": ("x86_64", FLAGS.format(more="avx512f avx512_vnni"), False),
    "AVX2 with VNNI": ("AMD64", FLAGS.format(more="avx_vnni"), False),
    "nobody knows": ("x86_64", None, True),
    "no flags": ("x86_64", "processor : 0\n", True),
    "an ARM core": ("aarch64", None, False),
}


@pytest.mark.parametrize(("machine", "text", "expected"), CASES.values(), ids=CASES)
def test_saturates(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, machine: str, text: str | None, expected: bool
) -> None:
    path = tmp_path / "cpuinfo"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(narrow, "_CPU", path)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    narrow.saturates.cache_clear()
    try:
        assert narrow.saturates() is expected
    finally:
        narrow.saturates.cache_clear()
