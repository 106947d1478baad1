"""The profile of this machine: a real (short) measurement, and the fit on made-up ones."""

import dataclasses
import random
from pathlib import Path

import pytest
from click.testing import CliRunner

from splitc import cost, profiler, scenario
from splitc.cli import cli
from splitc.cost.roofline import CALL
from splitc.errors import RequestError
from splitc.model import Model
from splitc.profiler import fit, machine
from splitc.profiler.fit import Row, Sample, Start
from splitc.profiler.probes import probes
from splitc.scenario import Device, Scenario

START = Start(per_op=1 / 20e9, per_byte=1 / 10e9)
TRUE: dict[str, Row] = {
    CALL: (0.0, 0.0, 8e-6),
    "conv": (1 / 60e9, 1 / 9e9, 3e-6),
    "gemm": (1 / 30e9, 1 / 15e9, 1e-6),
    "elementwise": (1 / 9e9, 1 / 20e9, 2e-6),
    "layout": (1 / 12e9, 1 / 10e9, 1.5e-6),
    "reduce": (1 / 5e9, 1 / 12e9, 4e-6),
}


@pytest.fixture(scope="module")
def measured() -> Device:
    """A real profile of this machine, in a hurry."""
    return profiler.measure("mine", seconds=1.0, threads=1)


@pytest.fixture(scope="module")
def models() -> list[Model]:
    return list(probes())


def made_up(count: int, noise: float) -> list[Sample]:
    """Networks with known costs: 1 to 3 families each, sizes over three decades."""
    rng = random.Random(0)
    samples = []
    for at in range(count):
        chosen = rng.sample(sorted(TRUE.keys() - {CALL}), rng.randint(1, 3))
        features = {
            family: (10 ** rng.uniform(5, 8), 10 ** rng.uniform(4, 7), float(rng.randint(1, 20)))
            for family in chosen
        }
        seconds = fit.predict(TRUE, features) * rng.lognormvariate(0, noise)
        samples.append(Sample(f"net{at}", features, seconds))
    return samples


def test_the_fit_finds_the_costs_that_made_the_samples() -> None:
    found = fit.fit(made_up(200, 0.0), START)
    for family, row in TRUE.items():
        assert found[family] == pytest.approx(row, rel=0.25, abs=1e-12)
    assert found["other"][0] == max(found[f][0] for f in ("elementwise", "layout", "reduce"))


def test_no_family_is_free_even_where_nothing_was_measured_of_it() -> None:
    found = fit.fit([s for s in made_up(60, 0.05) if "conv" not in s.features], START)
    assert all(value > 0 for f, row in found.items() if f != CALL for value in row)
    assert found[CALL][2] > 0


def test_the_band_grows_with_what_the_fit_cannot_explain() -> None:
    quiet, noisy = (fit.band(made_up(120, noise), START) for noise in (0.02, 0.3))
    assert 1.0 < quiet < 1.15
    assert 1.3 < noisy < 2.2


def test_features_are_what_the_price_list_asks(models: list[Model]) -> None:
    """Features times coefficients are the sum of the table's prices, for every probe."""
    samples = [Sample(m.source, fit.features(m), 1e-4) for m in models]
    predictor = {**fit.fit(samples, START)}
    pi = dataclasses.replace(scenario.device("raspberry-pi-4"), predictor=predictor)
    asked = Scenario(head=pi, tail=pi, link=scenario.link("wifi"))
    for model, one in zip(models, samples, strict=True):
        if "control" not in one.features:
            total = sum(cost.table(model, asked).head_s.values())
            assert total == pytest.approx(fit.predict(predictor, one.features), rel=1e-9), one.name


def test_probes_touch_every_family(models: list[Model]) -> None:
    seen = {family for model in models for family in fit.features(model)}
    families = {*scenario.device("raspberry-pi-4").efficiency} - {"other"}
    assert families <= {name.partition("/")[0] for name in seen}
    assert {"conv/1x1", "conv/int8", "gemm/vector", "gemm/stream", "layout/view"} <= seen


def test_a_profile_of_this_machine_is_complete(measured: Device) -> None:
    assert measured.name == "mine"
    assert measured.memory_bytes > 2**29
    assert measured.memory_bandwidth_gb_s > 0.1
    assert measured.peak_gops["float32"] > 0.5
    assert 1.1 <= measured.error_band < 10
    assert set(measured.estimated) == {"active_w", "idle_w"}
    assert all("measured" in measured.sources[k] for k in ("peak_gops", "efficiency", "error_band"))
    assert all(len(row) == 3 and max(row) > 0 for row in measured.predictor.values())
    assert {"call", "other", "conv", "depthwise", "gemm"} <= measured.predictor.keys()


def test_a_profile_survives_its_file(measured: Device, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(profiler.to_toml(measured), "utf-8")
    assert scenario.device(path) == measured


def test_a_profile_prices_more_work_higher(measured: Device, models: list[Model]) -> None:
    asked = Scenario(head=measured, tail=measured, link=scenario.link("wifi"))
    rows = (
        ("call", "conv3x3-16x32", "conv3x3-64x40"),
        ("gemm-1x32", "gemm-1x640", "gemm-1x3072"),
    )
    named = {model.source: model for model in models}
    for row in rows:
        total = [sum(cost.table(named[name], asked).head_s.values()) for name in row]
        assert total == sorted(total)


def test_the_command_writes_a_profile(
    measured: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The measurement itself is tested above; here it is handed over."""
    path = tmp_path / "here.toml"
    asked: list[tuple[str, float, int]] = []

    def handed(name: str, *, seconds: float, threads: int) -> Device:
        asked.append((name, seconds, threads))
        return measured

    monkeypatch.setattr(profiler, "measure", handed)
    result = CliRunner().invoke(
        cli, ["profile", "-o", str(path), "--seconds", "3", "--threads", "2", "--name", "box"]
    )
    assert result.exit_code == 0, result.output
    assert asked == [("box", 3.0, 2)]
    assert scenario.device(path) == measured


@pytest.mark.parametrize("wrong", [{"seconds": 0.0}, {"threads": 0}])
def test_no_time_and_no_thread_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(RequestError, match="above 0"):
        profiler.measure("mine", **wrong)  # type: ignore[arg-type]


CPUINFO = {
    "x86-64-v4": "flags : avx512f avx512bw avx512cd avx512dq avx512vl avx2 fma avx512_vnni",
    "x86-64-v3": "model name: EPYC\nflags\t: avx2 bmi1 bmi2 f16c fma movbe",
    "x86-64": "flags : sse2",
    "cortex-a72": "Features : fp asimd\nCPU part : 0xd08\n\nFeatures : none",
    "cortex-a76": "Features : asimd asimddp asimdhp\nCPU part : 0xd0b",
    "generic": "",
}


@pytest.mark.parametrize(("name", "text"), CPUINFO.items())
def test_cores_by_their_compilers_name(name: str, text: str) -> None:
    assert machine.core(machine.cpuinfo(text)) == name


def test_instruction_sets_are_spelled_as_compilers_do() -> None:
    seen = {name: machine.features(machine.cpuinfo(text)) for name, text in CPUINFO.items()}
    assert seen["x86-64-v4"] == ("avx2", "fma", "avx512f", "avx512vnni")
    assert seen["cortex-a76"] == ("neon", "fullfp16", "dotprod")
    assert seen["cortex-a72"] == ("neon",)
