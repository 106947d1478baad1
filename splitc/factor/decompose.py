"""Weights as products of thinner ones: SVD of matrices, Tucker-2 and CP of kernels.

A kernel is a tensor (O, I, K): output channels, input channels, positions. All in float64.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

_SWEEPS, _SETTLED = 25, 1e-6
_CP_SWEEPS, _RIDGE = 40, 1e-9


def singular(matrix: Array) -> Array:
    """Return the singular values, largest first."""
    return np.asarray(np.linalg.svd(matrix, compute_uv=False))


def eckart_young(values: Array, rank: int) -> float:
    """Return the least relative Frobenius error that a matrix of that rank can have, 0 to 1.

    √(Σ_{i>rank} σᵢ² / Σ σᵢ²). Source: C. Eckart, G. Young, "The approximation of one matrix by
    another of lower rank", Psychometrika 1 (1936) 211–218.
    """
    total = float(np.sum(values**2))
    return float(np.sqrt(np.sum(values[rank:] ** 2) / total)) if total else 0.0


def pair(matrix: Array, rank: int) -> tuple[Array, Array]:
    """Return (A, B) with A·B nearest to the matrix; the singular values are shared evenly."""
    left, values, right = np.linalg.svd(matrix, full_matrices=False)
    root = np.sqrt(values[:rank])
    return left[:, :rank] * root, root[:, None] * right[:rank]


@dataclass(frozen=True)
class Tucker:
    """`out` (O, r), `core` (r, s, K), `into` (I, s); `out` and `into` have orthonormal columns."""

    out: Array
    core: Array
    into: Array

    def whole(self) -> Array:
        """Return the kernel (O, I, K) that the parts make up."""
        made = np.einsum("or,rsk,is->oik", self.out, self.core, self.into, optimize=True)
        return np.asarray(made)

    def cut(self, out: int, into: int) -> "Tucker":
        """Return the leading part of ranks (out, into)."""
        return Tucker(self.out[:, :out], self.core[:out, :into], self.into[:, :into])


def hosvd(kernel: Array) -> Tucker:
    """Return the full higher-order SVD over both channel axes; its core is sorted by energy.

    Source: L. De Lathauwer, B. De Moor, J. Vandewalle, "A multilinear singular value
    decomposition", SIAM J. Matrix Anal. Appl. 21 (2000) 1253–1278.
    """
    outs, ins, _ = kernel.shape
    out = np.linalg.svd(kernel.reshape(outs, -1), full_matrices=False)[0]
    into = np.linalg.svd(kernel.transpose(1, 0, 2).reshape(ins, -1), full_matrices=False)[0]
    return Tucker(out, _core(kernel, out, into), into)


def _core(kernel: Array, out: Array, into: Array) -> Array:
    return np.asarray(np.einsum("oik,or,is->rsk", kernel, out, into, optimize=True))


def retained(core: Array) -> Array:
    """Return the table of energies (sums of squares) that ranks (r, s) keep, at [r−1, s−1]."""
    return np.asarray(np.sum(core**2, axis=2).cumsum(axis=0).cumsum(axis=1))


def refined(kernel: Array, start: Tucker) -> Tucker:
    """Improve a Tucker-2 decomposition of the same ranks by orthogonal iteration (HOOI).

    Source: L. De Lathauwer, B. De Moor, J. Vandewalle, "On the best rank-1 and rank-(R1, …, RN)
    approximation of higher-order tensors", SIAM J. Matrix Anal. Appl. 21 (2000) 1324–1342.
    """
    best, kept = start, float(np.sum(start.core**2))
    for _ in range(_SWEEPS):
        seen = np.einsum("oik,is->osk", kernel, best.into, optimize=True)
        out = _leading(seen.reshape(len(seen), -1), best.out.shape[1])
        seen = np.einsum("oik,or->irk", kernel, out, optimize=True)
        into = _leading(seen.reshape(len(seen), -1), best.into.shape[1])
        core = _core(kernel, out, into)
        now = float(np.sum(core**2))
        if now <= kept * (1 + _SETTLED):
            return best if now < kept else Tucker(out, core, into)
        best, kept = Tucker(out, core, into), now
    return best


def _leading(matrix: Array, rank: int) -> Array:
    return np.asarray(np.linalg.svd(matrix, full_matrices=False)[0][:, :rank])


@dataclass(frozen=True)
class Canonical:
    """Columns `out` (O, r), `into` (I, r), `place` (K, r): a sum of r products."""

    out: Array
    into: Array
    place: Array

    def whole(self) -> Array:
        """Return the kernel (O, I, K) that the parts make up."""
        made = np.einsum("or,ir,kr->oik", self.out, self.into, self.place, optimize=True)
        return np.asarray(made)


def cp(kernel: Array, rank: int, seed: int = 0) -> Canonical:
    """Return a canonical polyadic decomposition by alternating least squares.

    Begins from leading singular vectors, random ones beyond their number; a tiny ridge keeps
    nearly parallel terms from growing against each other. Locally best only. Source: T. Kolda,
    B. Bader, "Tensor decompositions and applications", SIAM Review 51 (2009), §3.4.
    """
    rng = np.random.default_rng(seed)
    parts = [_begin(kernel, axis, rank, rng) for axis in range(3)]
    rows = [np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1) for axis in range(3)]
    size, before = float(np.sum(kernel**2)), np.inf
    for _ in range(_CP_SWEEPS):
        for axis in range(3):
            right, gram = _equations(rows, parts, axis)
            damped = gram + _RIDGE * np.trace(gram) * np.eye(rank)
            parts[axis] = np.linalg.solve(damped, right.T).T
        kept = 2 * np.sum(right * parts[2]) - np.sum(gram * (parts[2].T @ parts[2]))
        error = size - float(kept)
        if before - error <= _SETTLED * size:
            break
        before = error
    return _balanced(Canonical(*parts))


def _begin(kernel: Array, axis: int, rank: int, rng: np.random.Generator) -> Array:
    rows = np.moveaxis(kernel, axis, 0).reshape(kernel.shape[axis], -1)
    known = _leading(rows, rank)
    spare = rng.standard_normal((len(rows), rank - known.shape[1]))
    return np.concatenate([known, spare / np.sqrt(len(rows))], axis=1)


def _equations(rows: list[Array], parts: list[Array], axis: int) -> tuple[Array, Array]:
    """Return (right side, Gram matrix) of the least squares for one axis, given the others."""
    one, other = (parts[i] for i in range(3) if i != axis)
    products = (one[:, None] * other[None]).reshape(-1, one.shape[1])  # Khatri-Rao
    return rows[axis] @ products, (one.T @ one) * (other.T @ other)


def _balanced(made: Canonical) -> Canonical:
    """Give the three columns of each term equal lengths."""
    columns = (made.out, made.into, made.place)
    lengths = [np.maximum(np.linalg.norm(part, axis=0), 1e-300) for part in columns]
    even = np.cbrt(lengths[0] * lengths[1] * lengths[2])
    out, into, place = (p / n * even for p, n in zip(columns, lengths, strict=True))
    return Canonical(out, into, place)


def relative(wanted: Array, got: Array) -> float:
    """Return ‖wanted − got‖ / ‖wanted‖ (Frobenius); 0 if both are 0."""
    size = float(np.linalg.norm(wanted))
    return float(np.linalg.norm(wanted - got)) / size if size else 0.0
