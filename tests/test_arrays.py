"""Archives of arrays are untrusted: what is damaged, or lies, is an error and nothing else."""

import random
import zipfile
from pathlib import Path

import numpy as np
import pytest

from splitc import selftest
from splitc.errors import VerifyError


def test_arrays_are_read_without_pickle_and_without_belief(tmp_path: Path) -> None:
    path = tmp_path / "evil.npz"
    np.savez(path, a=np.array([{}], object))
    with pytest.raises(VerifyError, match="cannot read the arrays"):
        selftest.load(path)
    np.savez_compressed(path, a=np.zeros(1000))
    assert selftest.load(path)["a"].shape == (1000,)
    with pytest.raises(VerifyError, match="an entry is compressed"):
        selftest.load(path, packed=False)
    path.write_bytes(b"PK\3\4 no zip")
    with pytest.raises(VerifyError, match="cannot read the arrays"):
        selftest.load(path)


SIZES = "{'descr': '<f4', 'fortran_order': False, 'shape': %s, }"
HEADERS = {
    "no literal": "'" * 3,
    "bad indentation": "\n  x\n y\n",
    "deep": "-" * 9000 + "1",
    "a bool": SIZES % "(True,)",
    "open": SIZES % "((((",
    "beyond any memory": SIZES % f"(0, {2**70})",
    "objects": SIZES.replace("<f4", "O") % "(1,)",
}


@pytest.mark.parametrize("header", HEADERS.values(), ids=HEADERS)
def test_an_array_whose_header_lies(tmp_path: Path, header: str) -> None:
    data = b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode() + bytes(4)
    with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
        archive.writestr("a.npy", data)
    with pytest.raises(VerifyError, match="cannot read the arrays"):
        selftest.load(tmp_path / "a.npz")


def test_damaged_archives_give_errors_and_nothing_else(tmp_path: Path) -> None:
    path, chance, refused = tmp_path / "a.npz", random.Random(0), 0
    np.savez_compressed(path, a=np.arange(600.0).reshape(2, 300), b=np.int8(3))
    whole = path.read_bytes()
    for _ in range(300):
        data = bytearray(whole)
        for _ in range(chance.choice([1, 2, 4])):
            data[chance.randrange(len(data))] = chance.choice([0, 255, chance.randrange(256)])
        path.write_bytes(data)
        try:
            selftest.load(path)
        except VerifyError:
            refused += 1
    assert refused > 100
