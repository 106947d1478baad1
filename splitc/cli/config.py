"""`--dry-run` prints the resolved request as TOML, `--config FILE` runs it back."""

import tomllib
from pathlib import Path
from typing import Any

import click
from click.core import ParameterSource

from splitc.errors import RequestError, did_you_mean

_OWN = ("config_file", "dry_run", "as_json", "progress", "resume")
_NUMBERS = ("max_drop",)


def resolved(ctx: click.Context, options: dict[str, Any]) -> dict[str, Any] | None:
    """Merge command line over `--config` over defaults; None after a dry run has been printed."""
    merged = {**options, **_from_file(ctx, options)}
    if merged.get("model") is None:
        raise click.UsageError("Missing argument 'MODEL'.", ctx)
    merged["input"] = tuple(merged["input"])
    if merged.pop("dry_run"):
        click.echo(_toml(merged), nl=False)
        return None
    merged.pop("config_file")
    return merged


def _from_file(ctx: click.Context, options: dict[str, Any]) -> dict[str, Any]:
    path = options["config_file"]
    if path is None:
        return {}
    try:
        table = tomllib.loads(Path(path).read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise RequestError(f"cannot read the configuration: {error}", where=str(path)) from error
    known = {key: value for key, value in options.items() if key not in _OWN}
    for key in sorted(table.keys() - known.keys()):
        hint = did_you_mean(key, known)
        raise RequestError(f"unknown key {key!r}", where=str(path), hint=hint)
    for key, value in table.items():
        _check_type(key, value, options[key], path)
    typed = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
    return {k: v for k, v in table.items() if ctx.get_parameter_source(k) not in typed}


def _check_type(key: str, value: object, usual: object, path: str) -> None:
    """Raise `RequestError` unless `value` is of the type that the option has."""
    if key in _NUMBERS:
        wanted: type = float
    else:
        wanted = list if isinstance(usual, tuple) else str if usual is None else type(usual)
    fits = type(value) is wanted or (wanted is float and type(value) is int)
    if not fits:
        raise RequestError(f"{key} = {value!r:.80} is no {wanted.__name__}", where=path)
    if isinstance(value, list) and not all(isinstance(item, str) for item in value):
        raise RequestError(f"{key} = {value!r:.80} holds what is no text", where=path)


def _toml(options: dict[str, Any]) -> str:
    import tomli_w

    kept = {k: v for k, v in sorted(options.items()) if k not in _OWN and v is not None}
    return tomli_w.dumps({k: list(v) if isinstance(v, tuple) else v for k, v in kept.items()})
