"""Factoring: nearest products and kernels, ranks by energy or target, each against another way."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import helper

from splitc.factor import decompose
from splitc.factor.choose import by_energy, by_target, most
from splitc.factor.layers import Layer, Option, layers
from tests.test_low_rank import net


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 20), st.integers(2, 20), st.integers(0, 99), st.data())
def test_svd_reaches_the_eckart_young_bound(
    rows: int, columns: int, seed: int, data: st.DataObject
) -> None:
    """The bound from singular values, which a dense eigensolver finds another way."""
    matrix = np.random.default_rng(seed).standard_normal((rows, columns))
    rank = data.draw(st.integers(1, min(rows, columns)))
    a, b = decompose.pair(matrix, rank)
    assert (a.shape, b.shape) == ((rows, rank), (rank, columns))
    squares = np.maximum(np.sort(np.linalg.eigvalsh(matrix @ matrix.T))[::-1], 0)
    bound = math.sqrt(squares[rank:].sum() / squares.sum())
    assert decompose.relative(matrix, a @ b) == pytest.approx(bound, abs=1e-6)
    assert decompose.eckart_young(decompose.singular(matrix), rank) == pytest.approx(
        bound, abs=1e-6
    )
    np.testing.assert_allclose(np.linalg.norm(a, axis=0), np.linalg.norm(b, axis=1), rtol=1e-6)


def test_the_reported_error_is_eckart_and_youngs(tmp_path: Path) -> None:
    weight = np.random.default_rng(5).standard_normal((24, 16)).astype(np.float32)
    before = net(
        tmp_path, [helper.make_node("MatMul", ["x", "w"], ["y"])], {"w": weight}, ["N", 24]
    )
    (layer,) = layers(before, frozenset({"y"}))
    values = np.linalg.svd(weight.astype(np.float64), compute_uv=False)
    for option in layer.options:
        bound = decompose.eckart_young(values, option.ranks[0])
        assert math.sqrt(option.error) == pytest.approx(bound, abs=1e-9)
        (a, b), error = layer.factors(option)
        assert error == pytest.approx(bound, abs=1e-9)
        assert decompose.relative(layer.array, a @ b) == pytest.approx(bound, abs=1e-9)
        assert option.macs == option.ranks[0] * (24 + 16)
        assert option.macs < layer.macs == 24 * 16


@pytest.mark.parametrize("shape", [(8, 6, 9), (6, 8, 4), (12, 2, 3), (3, 20, 1)])
def test_tucker_is_exact_at_full_rank_and_refining_never_hurts(shape: tuple[int, ...]) -> None:
    tensor = np.random.default_rng(2).standard_normal(shape)
    full = decompose.hosvd(tensor)
    assert decompose.relative(tensor, full.whole()) <= 1e-12
    kept, gains = decompose.retained(full.core), []
    for out, into in itertools.product((1, 2, 3), (1, 2)):
        if out > into * shape[2] or into > out * shape[2]:
            continue
        cut = full.cut(out, into)
        rough = decompose.relative(tensor, cut.whole())
        assert rough**2 == pytest.approx(1 - kept[out - 1, into - 1] / kept[-1, -1], abs=1e-12)
        made = decompose.refined(tensor, cut)
        assert decompose.relative(tensor, made.whole()) <= rough + 1e-12
        gains.append(rough - decompose.relative(tensor, made.whole()))
        np.testing.assert_allclose(made.out.T @ made.out, np.eye(out), atol=1e-10)
    assert shape[2] == 1 or max(gains) > 1e-3


def test_cp_finds_the_terms_of_a_sum() -> None:
    rng = np.random.default_rng(0)
    true = decompose.Canonical(*(rng.standard_normal((n, 4)) for n in (20, 12, 9))).whole()
    errors = [decompose.relative(true, decompose.cp(true, rank).whole()) for rank in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True)
    assert errors[2] > 0.1
    assert errors[3] < 1e-2
    beyond = decompose.cp(true, 25)  # more terms than rows: random columns fill up
    assert decompose.relative(true, beyond.whole()) < 1e-2


def _layer(name: str, seed: int, rows: int, columns: int, positions: int) -> Layer:
    rng = np.random.default_rng(seed)
    matrix = rng.standard_normal((rows, columns)) * (0.5 ** np.arange(columns))
    return Layer(name, 1, name, matrix, True, positions, positions, 4)


def _cost(found: dict[str, Option], some: list[Layer]) -> tuple[int, float]:
    saved = sum(layer.macs - found[layer.node].macs for layer in some if layer.node in found)
    return saved, sum(option.error for option in found.values())


@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.6])
def test_a_target_is_met_at_the_least_error(share: float) -> None:
    """Against brute force over every choice of ranks of three layers."""
    some = [_layer("a", 0, 8, 6, 5), _layer("b", 1, 10, 7, 2), _layer("c", 2, 6, 6, 9)]
    total = sum(layer.macs for layer in some)
    choices = [
        _cost({one.node: o for one, o in zip(some, choice, strict=True) if o}, some)
        for choice in itertools.product(*([None, *layer.options] for layer in some))
    ]
    found = by_target(some, "macs", math.ceil(share * total))
    assert found is not None
    saved, error = _cost(found, some)
    assert saved >= share * total
    finer = share * total * (1 + len(some) / 4096)
    assert error <= min(e for s, e in choices if s >= finer) + 1e-12
    assert error >= min(e for s, e in choices if s >= share * total) - 1e-12


def test_a_target_out_of_reach() -> None:
    some = [_layer("a", 0, 8, 6, 5)]
    assert by_target(some, "macs", most(some, "macs")) is not None
    assert by_target(some, "macs", most(some, "macs") + 1) is None


def test_energy_is_kept() -> None:
    some = [_layer("a", 0, 8, 6, 5), _layer("b", 1, 10, 7, 2)]
    for energy in (0.3, 0.8, 0.95, 0.9999):
        chosen = by_energy(some, energy)
        for layer in some:
            cheaper = [o for o in layer.options if o.error <= 1 - energy]
            assert (layer.node in chosen) == bool(cheaper)
            if cheaper:
                assert chosen[layer.node].macs == min(o.macs for o in cheaper)
