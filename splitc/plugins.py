"""Find passes, backends, codecs and profile folders, built in or from installed packages.

Each collection is a plain dict of name → ``"module:attribute"`` merged with an entry-point group
(``splitc.passes``, ``splitc.backends``, ``splitc.codecs``, ``splitc.profiles``); what a name points
to is imported on use, never on lookup.
"""

from collections.abc import Mapping
from importlib import import_module
from importlib.metadata import entry_points

from splitc.errors import RequestError, SplitcError, did_you_mean


def lookup(
    group: str, built_in: Mapping[str, str], *, error: type[SplitcError] = RequestError
) -> Mapping[str, str]:
    """Return name → ``"module:attribute"`` for everything of `group`, in alphabetical order.

    `built_in` comes first; a package that offers a name that is taken raises `error`, because
    what a name means must not depend on the order of installed packages.
    """
    found = dict(built_in)
    for point in sorted(entry_points(group=group), key=lambda p: (p.name, p.value)):
        if found.get(point.name, point.value) != point.value:
            owner = point.dist.name if point.dist else "an installed package"
            raise error(
                f"{owner!r} offers {point.name!r} in {group!r}, but that name is taken",
                where=f"{point.value} and {found[point.name]}",
                hint=f"uninstall {owner!r}, or rename its entry point",
            )
        found[point.name] = point.value
    return dict(sorted(found.items()))


def load(
    group: str,
    name: str,
    built_in: Mapping[str, str],
    *,
    error: type[SplitcError] = RequestError,
    install: str = "",
) -> object:
    """Import and return what `name` stands for in `group`.

    Raises `error` when the name is unknown, or when it or something it needs cannot be imported
    (`install` is then the hint).
    """
    known = lookup(group, built_in, error=error)
    kind = group.rpartition(".")[2]
    singular = "pass" if kind == "passes" else kind.removesuffix("s")
    if name not in known:
        raise error(f"unknown {singular} {name!r}", hint=did_you_mean(name, known))
    return resolve(known[name], f"{singular} {name!r}", error=error, install=install)


def resolve(
    target: str, what: str, *, error: type[SplitcError] = RequestError, install: str = ""
) -> object:
    """Import ``"module:attribute"`` (or a whole ``"module"``); `what` names it in the error."""
    module, _, attribute = target.partition(":")
    try:
        value: object = import_module(module)
        for part in attribute.split(".") if attribute else ():
            value = getattr(value, part)
    except (ImportError, AttributeError) as reason:
        missing = reason.name if isinstance(reason, ImportError) else None
        hint = install or (f"install the package that provides {missing!r}" if missing else "")
        raise error(f"{what} cannot be loaded: {reason}", where=target, hint=hint) from reason
    return value
