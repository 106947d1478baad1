import csv
import dataclasses
import json
from pathlib import Path

import pytest
import tomli_w

from splitc import scenario
from splitc.cost.price import energy
from splitc.cost.table import CostTable
from splitc.cost.wire import seconds_per_byte
from splitc.errors import ProfileError
from splitc.macs import _KINDS
from splitc.scenario import Device, Link, Scenario

DEVICES = (
    *("raspberry-pi-3", "raspberry-pi-4", "raspberry-pi-5", "jetson-nano", "jetson-tx2"),
    *("jetson-xavier", "jetson-orin", "laptop-cpu"),
    *("nvidia-t4", "nvidia-a100", "nvidia-h100", "nvidia-h200"),
)
LINKS = ("lora", "lte-cat1", "3g", "lte", "wifi", "5g-urllc", "6g-urllc", "ethernet")
SLICES = ("5g-slice-autonomous-driving", "5g-slice-factory-robots", "5g-slice-short-video")

TRANSFERS = """
44770,9550.9,2755.1,325.60,61.224,18.970,577.54,235.87,103.94
1790,381.87,110.15,13.018,2.448,0.758,23.09,9.43,4.16
1793,382.51,110.34,13.040,2.452,0.760,23.13,9.45,4.16
965.7,206.02,59.43,7.023,1.321,0.409,12.46,5.09,2.24
602112,128450.6,37053.0,4379.0,823.40,255.13,7767.3,3172.3,1397.9
150528,32112.6,9263.3,1094.7,205.85,63.783,1941.8,793.06,349.47
2523,538.24,155.26,18.349,3.450,1.069,32.55,13.29,5.86
10092,2152.96,621.05,73.396,13.801,4.276,130.19,53.17,23.43
"""
"""Bytes, then ms over LoRa, LTE Cat-1, 3G, LTE and Wi-Fi, then mJ of radio over the last three:
eight payloads of reference/transfer_examples.csv, computed there from the published rates and from
P = alpha · rate + beta (BottleNet, arXiv 1902.01000; model of Huang et al., MobiSys 2012)."""

DEVICE = dataclasses.asdict(scenario.device("raspberry-pi-4"))
LINK = dataclasses.asdict(scenario.link("wifi"))


def bare(name: str) -> Link:
    """The link without headers, losses and pauses, as the reference counts."""
    return dataclasses.replace(
        scenario.link(name), packet_overhead_bytes=0, loss=0.0, duty_cycle=1.0
    )


@pytest.mark.parametrize("row", TRANSFERS.split())
def test_wire_and_radio_reproduce_the_published_transfers(row: str) -> None:
    size, *wanted = map(float, row.split(","))
    links = [bare(name) for name in ("lora", "lte-cat1", "3g", "lte", "wifi")]
    times = [size * seconds_per_byte(link, link.uplink_mbit_s) * 1e3 for link in links]
    joules = [_radio_joules(link, ms / 1e3) * 1e3 for link, ms in zip(links, times, strict=True)]
    assert times + joules[2:] == pytest.approx(wanted, rel=1.2e-3)


def _radio_joules(link: Link, seconds: float) -> float:
    pi = scenario.device("raspberry-pi-4")
    table = object.__new__(CostTable)
    object.__setattr__(table, "scenario", Scenario(head=pi, tail=pi, link=link))
    keys = ("head_s", "encode_s", "rtt_s", "decode_s", "tail_s", "downlink_s")
    return energy(table, {**dict.fromkeys(keys, 0.0), "uplink_s": seconds})["radio"]


def test_the_promised_profiles_ship() -> None:
    assert set(DEVICES) <= {d.name for d in scenario.devices()}
    assert {*LINKS, *SLICES} <= {k.name for k in scenario.links()}


@pytest.mark.parametrize("name", [d.name for d in scenario.devices()])
def test_a_device_says_what_compilers_and_planners_ask(name: str) -> None:
    device = scenario.device(name)
    assert device.name == name
    assert device.triple.endswith("linux-gnu")
    assert device.cpu
    assert device.features
    assert bool(device.compute_capability) == name.startswith(("jetson", "nvidia"))
    assert 2**29 <= device.memory_bytes < 2**40
    assert device.idle_w < device.active_w <= 1000
    assert {"float32", "float16", "int8"} <= device.peak_gops.keys()
    assert (
        device.peak_gops["float32"] <= device.peak_gops["float16"] <= 20 * device.peak_gops["int8"]
    )
    assert {"conv", "depthwise", "grouped", "other", *_KINDS} == device.efficiency.keys()


@pytest.mark.parametrize("name", [d.name for d in scenario.devices()])
def test_what_a_source_calls_an_estimate_is_marked(name: str) -> None:
    _marked(scenario.device(name))


@pytest.mark.parametrize("name", [k.name for k in scenario.links()])
def test_a_link_is_plausible_and_marks_its_estimates(name: str) -> None:
    link = scenario.link(name)
    assert link.name == name
    assert link.downlink_mbit_s >= link.uplink_mbit_s
    assert 0 < link.packet_overhead_bytes < link.packet_payload_bytes
    _marked(link)


def _marked(profile: Device | Link) -> None:
    guessed = {key for key, text in profile.sources.items() if text.startswith("estimate")}
    assert guessed == set(profile.estimated)


PUBLISHED = {
    "LoRa (duty-cycle limited)": "lora",
    "LTE Cat-1": "lte-cat1",
    "3G": "3g",
    "4G/LTE": "lte",
    "Wi-Fi": "wifi",
    "5G URLLC": "5g-urllc",
    "5G slice autonomous driving": "5g-slice-autonomous-driving",
    "5G slice short video": "5g-slice-short-video",
    "5G slice factory robots": "5g-slice-factory-robots",
    "5G slice factory robots tuned": "5g-slice-factory-robots-tuned",
    "6G URLLC+": "6g-urllc",
    "satellite": "satellite",
    "4G round trip": "lte",
    "4G with cellular edge": "lte-edge",
}


@pytest.mark.shared
def test_links_hold_the_published_figures(shared: Path) -> None:
    with (shared / "reference" / "links.csv").open(encoding="utf-8") as text:
        rows = list(csv.DictReader(text))
    assert {row["link"] for row in rows} == PUBLISHED.keys()
    for row in rows:
        link = scenario.link(PUBLISHED[row["link"]])
        have = {
            "uplink_mbps": link.uplink_mbit_s,
            "latency_ms": link.rtt_ms,
            "reliability": 1 - link.loss,
            "alpha_uplink_mw_per_mbps": link.alpha_mw_per_mbit_s,
            "beta_mw": link.beta_mw,
        }
        told = {key: float(row[key]) for key in have if row[key]}
        assert told == pytest.approx({key: have[key] for key in told}, rel=1e-9)


def test_faster_links_come_later() -> None:
    rates = [link.uplink_mbit_s * link.duty_cycle for link in scenario.links()]
    assert rates == sorted(rates)


def _write(folder: Path, table: dict[str, object]) -> Path:
    path = folder / "mine.toml"
    path.write_text(tomli_w.dumps(json.loads(json.dumps(table))), "utf-8")
    return path


def test_a_profile_is_read_back_from_its_own_fields(tmp_path: Path) -> None:
    table = {**DEVICE, "predictor": {"other": [1e-9, 0, 1e-6]}}
    wanted = dataclasses.replace(
        scenario.device("raspberry-pi-4"), predictor={"other": (1e-9, 0.0, 1e-6)}
    )
    assert scenario.device(_write(tmp_path, table)) == wanted


LINK_ERRORS = {
    "unknown key": ({"rtt": 5.0}, "unknown key 'rtt'", "rtt_ms"),
    "typo": ({"beta_mv": 1.0, "beta_mw": None}, "unknown key 'beta_mv'", "beta_mw"),
    "missing": ({"rtt_ms": None}, "missing key 'rtt_ms'", "rtt_ms = … (float)"),
    "negative": ({"rtt_ms": -1.0}, "'rtt_ms' has the value -1", ""),
    "not finite": ({"rtt_ms": float("inf")}, "'rtt_ms' has the value inf", ""),
    "text": ({"loss": "none"}, "'loss' has the value 'none'", ""),
    "bool": ({"loss": False}, "'loss' has the value False", ""),
    "fraction": ({"packet_payload_bytes": 1.5}, "'packet_payload_bytes' has the value 1.5", ""),
    "all lost": ({"loss": 1.0}, "loss below 1", ""),
    "no rate": ({"uplink_mbit_s": 0}, "rates and payload must be above 0", ""),
    "no float": ({"downlink_mbit_s": 5e-324}, "'downlink_mbit_s' has the value 5e-324", ""),
    "beyond sense": ({"beta_mw": 1e308}, "'beta_mw' has the value 1e+308", ""),
    "no time": ({"duty_cycle": 0}, "duty_cycle in (0, 1]", ""),
    "no source": ({"sources": {"loss": "x"}}, "has no source", "[sources]"),
    "empty source": ({"sources": {**LINK["sources"], "loss": " "}}, "'sources' has the value", ""),
    "stray source": ({"sources": {**LINK["sources"], "los": "x"}}, "unknown key 'los'", "loss"),
    "stray estimate": ({"estimated": ["rate"]}, "unknown key 'rate'", ""),
}
DEVICE_ERRORS = {
    "no float32": ({"peak_gops": {"int8": 1.0}}, "'peak_gops' has no entry 'float32'"),
    "no fallback": ({"efficiency": {"conv": 0.5}}, "'efficiency' has no entry 'other'"),
    "zero peak": ({"peak_gops": {"float32": 0}}, "'peak_gops' has the value"),
    "too good": ({"efficiency": {"other": 1.5}}, "efficiency of 'other' is above 1"),
    "no float": ({"memory_bytes": 10**400}, "'memory_bytes' has the value 1000"),
    "no bandwidth": ({"memory_bandwidth_gb_s": 0}, "must be above 0"),
    "band": ({"error_band": 0.5}, "error_band ≥ 1"),
    "short row": ({"predictor": {"other": [1.0, 2.0]}}, "'predictor' has the value"),
    "no other": ({"predictor": {"conv": [0, 0, 1e-6]}}, "'predictor' has no entry 'other'"),
}


@pytest.mark.parametrize(("change", "message", "hint"), LINK_ERRORS.values(), ids=LINK_ERRORS)
def test_a_wrong_link_is_refused(
    change: dict[str, object], message: str, hint: str, tmp_path: Path
) -> None:
    table = {key: value for key, value in {**LINK, **change}.items() if value is not None}
    with pytest.raises(ProfileError) as caught:
        scenario.link(_write(tmp_path, table))
    assert message in caught.value.args[0]
    assert hint in caught.value.hint
    assert caught.value.where == "mine.toml"


@pytest.mark.parametrize(("change", "message"), DEVICE_ERRORS.values(), ids=DEVICE_ERRORS)
def test_a_wrong_device_is_refused(change: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ProfileError) as caught:
        scenario.device(_write(tmp_path, {**DEVICE, **change}))
    assert message in caught.value.args[0]


@pytest.mark.parametrize("text", ["a = " + "[" * 9000, "a = " + "9" * 5000, "a = ", "\x00"])
def test_text_that_is_no_toml(text: str, tmp_path: Path) -> None:
    (tmp_path / "mine.toml").write_text(text, "utf-8")
    for read in (scenario.device, scenario.link):
        with pytest.raises(ProfileError, match="not TOML"):
            read(tmp_path / "mine.toml")


def test_an_unknown_name_and_an_unreadable_file_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(ProfileError, match="unknown device 'raspberry-pi-44'") as caught:
        scenario.device("raspberry-pi-44")
    assert "raspberry-pi-4" in caught.value.hint
    with pytest.raises(ProfileError, match="cannot read"):
        scenario.link(tmp_path / "gone.toml")
    (tmp_path / "bad.toml").write_text("name = ", "utf-8")
    with pytest.raises(ProfileError, match="not TOML"):
        scenario.link(tmp_path / "bad.toml")


def test_rate_and_round_trip_replace_the_links() -> None:
    pi, wifi = scenario.device("raspberry-pi-4"), scenario.link("wifi")
    made = Scenario.of(head=pi, tail=pi, link=wifi, rate=(20e6, 50e6), rtt=0.005)
    changed = {"uplink_mbit_s": 20.0, "downlink_mbit_s": 50.0, "rtt_ms": 5.0}
    assert made.link == dataclasses.replace(wifi, **changed)  # type: ignore[arg-type]
    assert Scenario.of(head=pi, tail=pi, link=wifi).link == wifi
