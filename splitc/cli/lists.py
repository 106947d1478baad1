"""`splitc devices`, `links`, `backends`, `passes` and `profile`."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import click

from splitc.cli.options import example, json_option, table, writable


@click.command(epilog=example("splitc devices", "splitc devices raspberry-pi-4"))
@click.argument("name", required=False)
@json_option
def devices(name: str | None, as_json: bool) -> None:
    """List device and server profiles, or print one with the source of each number."""
    from splitc import scenario

    if name is not None:
        return _one(scenario.device(name), as_json)
    found = scenario.devices()
    if as_json:
        return click.echo(json.dumps({"devices": [dataclasses.asdict(d) for d in found]}))
    rows = [
        (
            d.name,
            d.tier,
            f"{d.peak_gops['float32']:,.0f}",
            f"{d.memory_bandwidth_gb_s:,.0f}",
            d.summary,
        )
        for d in found
    ]
    return table("", ("name", "tier", ">float32 Gop/s", ">GB/s", "what"), rows)


@click.command(epilog=example("splitc links", "splitc links wifi"))
@click.argument("name", required=False)
@json_option
def links(name: str | None, as_json: bool) -> None:
    """List link profiles, or print one with the source of each number."""
    from splitc import scenario

    if name is not None:
        return _one(scenario.link(name), as_json)
    found = scenario.links()
    if as_json:
        return click.echo(json.dumps({"links": [dataclasses.asdict(d) for d in found]}))
    rows = [
        (k.name, f"{k.uplink_mbit_s:g}", f"{k.downlink_mbit_s:g}", f"{k.rtt_ms:g}", k.summary)
        for k in found
    ]
    return table("", ("name", ">up Mbit/s", ">down Mbit/s", ">round trip ms", "what"), rows)


def _one(profile: Any, as_json: bool) -> None:
    """Print one profile: value, source, and whether it is an estimate."""
    if as_json:
        return click.echo(json.dumps(dataclasses.asdict(profile)))
    click.echo(f"{profile.name}: {profile.summary}")
    rows = []
    for field in dataclasses.fields(profile):
        value = getattr(profile, field.name)
        if field.name in ("name", "summary", "sources", "estimated") or value in ("", (), {}):
            continue
        shown = (
            ", ".join(f"{k} {v}" for k, v in value.items()) if isinstance(value, dict) else value
        )
        guess = "estimated" if field.name in profile.estimated else ""
        rows.append((field.name, shown, guess, profile.sources.get(field.name, "")))
    return table("", ("", "value", "", "source"), rows)


@click.command(epilog=example("splitc backends"))
@json_option
def backends(as_json: bool) -> None:
    """List backends, or why one cannot be used here and what to install."""
    from splitc import backend

    found = backend.available()
    if as_json:
        return click.echo(json.dumps({"backends": [dataclasses.asdict(b) for b in found]}))
    rows = [(b.name, "available" if b.available else b.reason, b.hint) for b in found]
    return table("", ("backend", "", "hint"), rows)


@click.command(epilog=example("splitc passes"))
@json_option
def passes(as_json: bool) -> None:
    """List passes and their options."""
    from splitc import pipeline
    from splitc.errors import SplitcError

    rows: list[dict[str, Any]] = []
    for name, found in pipeline.known().items():
        if isinstance(found, SplitcError):
            rows.append({"name": name, "available": False, "reason": str(found.args[0])})
            continue
        known = {field.name: field for field in dataclasses.fields(found)}
        options = {name: _default(known[name]) for name in pipeline.settable(found)}
        about = (found.__doc__ or "").strip().splitlines()[0]
        rows.append(
            {
                "name": name,
                "available": True,
                "exact": found.exact,
                "options": options,
                "about": about,
            }
        )
    if as_json:
        return click.echo(json.dumps({"passes": rows}, default=str))
    cells = [
        (
            r["name"],
            "exact" if r.get("exact") else "lossy",
            ", ".join(_typed(*option) for option in r.get("options", {}).items()),
            r.get("about", r.get("reason")),
        )
        for r in rows
    ]
    return table("", ("pass", "", "options", "what"), cells)


def _default(option: "dataclasses.Field[Any]") -> Any:
    """Return the value that an option has where it is not given; None if there is none."""
    return None if option.default is dataclasses.MISSING else option.default


def _typed(name: str, value: object) -> str:
    """Return an option at its default as `--passes` reads it."""
    return name if value is None else f"{name} = {json.dumps(value, default=str)}"


@click.command(epilog=example("splitc profile -o here.toml"))
@click.option("-o", "--output", required=True, metavar="FILE.toml", help="Profile to write.")
@click.option("--name", default="here", show_default=True, help="Name of the profile.")
@click.option("--seconds", default=10.0, show_default=True, help="How long to measure.")
@click.option("--threads", default=1, show_default=True, help="Threads that will be used.")
@json_option
def profile(output: str, name: str, seconds: float, threads: int, as_json: bool) -> None:
    """Measure this machine into a device profile: a few kernels, bandwidth, overhead per node."""
    from splitc.profiler import measure, to_toml

    writable(Path(output))
    click.echo(f"measuring for {seconds:g} seconds; leave the machine alone meanwhile", err=True)
    made = measure(name, seconds=seconds, threads=threads)
    Path(output).write_text(to_toml(made), "utf-8")
    if as_json:
        click.echo(json.dumps(dataclasses.asdict(made)))
    else:
        click.echo(f"wrote {output}; use it as --head {output} or --tail {output}")
