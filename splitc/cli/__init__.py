"""The command line: parse, call one library function, print. Nothing is imported before it is used.

Exit codes: 0 done, 1 the user can fix it, 2 usage, 3 verification failed, 4 no plan meets the
request, 130 interrupted.
"""

import json
import os
import sys
from collections.abc import Sequence
from importlib import import_module

import click

from splitc import __version__
from splitc.errors import RequestError, SplitcError

COMMANDS = {
    "compile": ("splitc.cli.build:compile_", "Plan, split, compile and verify: the whole job."),
    "inspect": ("splitc.cli.look:inspect", "Nodes, shapes, MACs, bytes, operators nobody takes."),
    "cuts": ("splitc.cli.look:cuts", "The boundaries worth looking at."),
    "plan": ("splitc.cli.build:plan", "The price list; writes nothing."),
    "optimize": ("splitc.cli.look:optimize", "Run passes alone."),
    "sensitivity": ("splitc.cli.sensitivity:sensitivity", "What int8 costs and saves, by node."),
    "verify": ("splitc.cli.bundles:verify", "Check a bundle: digests, contract, self-test."),
    "run": ("splitc.cli.bundles:run", "Head, framed boundary, tail; the tail may be elsewhere."),
    "serve": ("splitc.cli.bundles:serve", "The tail behind a socket."),
    "devices": ("splitc.cli.lists:devices", "Device and server profiles, with their sources."),
    "links": ("splitc.cli.lists:links", "Link profiles, with their sources."),
    "check": ("splitc.cli.finish:check", "Which nodes a backend refuses, and why."),
    "finish": ("splitc.cli.finish:finish", "On the target: build engines from their recipes."),
    "backends": ("splitc.cli.lists:backends", "Backends, or why one cannot be used here."),
    "passes": ("splitc.cli.lists:passes", "Passes and their options."),
    "profile": ("splitc.cli.lists:profile", "Measure this machine into a device profile."),
}


class _Lazy(click.Group):
    """A group that imports a command when it is called, not when it is listed."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, attribute = COMMANDS[cmd_name][0].partition(":")
        command: click.Command = getattr(import_module(module), attribute)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            from splitc.errors import did_you_mean

            ctx.fail(f"No such command {args[0]!r}; {did_you_mean(args[0], COMMANDS)}")
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(cls=_Lazy, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="splitc")
def cli() -> None:
    """Compile one trained network for two machines and the wire between them.

    \b
    Example:
      splitc compile net.onnx --head raspberry-pi-4 --tail nvidia-a100 --link wifi
    """  # noqa: D301


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        code = cli.main(arguments, prog_name="splitc", standalone_mode=False)
    except SplitcError as error:
        return _failed(error, "--json" in arguments)
    except click.ClickException as error:
        error.show()
        if "--json" in arguments:
            click.echo(_told(error.format_message()))
        return 2
    except (click.Abort, KeyboardInterrupt):
        click.echo("interrupted", err=True)
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        return 0
    except OSError as error:  # a disk that is full, a folder without permission
        text = error.strerror or str(error)
        return _failed(RequestError(text, where=str(error.filename or "")), "--json" in arguments)
    return code if isinstance(code, int) else 0


def _failed(error: SplitcError, as_json: bool) -> int:
    if as_json:
        click.echo(_told(str(error.args[0]), error.where, error.hint))
    click.echo(str(error), err=True)
    return error.exit_code


def _told(error: str, where: str = "", hint: str = "") -> str:
    return json.dumps({"ok": False, "error": error, "where": where, "hint": hint})
