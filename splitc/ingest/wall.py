"""The wall in front of `torch.export.load`, which unpickles, evaluates and looks up names.

A `.pt2` archive is never shown to torch as it came. Its members are read here, each against a
list of what may be there, and a clean archive is written from what passed:

- only the members of one exported program: no compiled code, no custom objects, no legacy files;
- every pickle is loaded with torch's `weights_only` reader and written anew;
- in `model.json`: operators from the lists below, names that are names (torch writes them into
  Python source), size expressions of a small grammar (torch evaluates them), call conventions of
  tuples, lists and dicts (torch imports what others name); guards and stack traces are dropped.

What was found in torch 2.13.0: `torch/_export/serde/serialize.py` (`deserialize_operator`,
`_parse_sym_expr`), `torch/export/pt2_archive/_package.py`, `torch/utils/_pytree.py`.
"""

import ast
import json
import re
from collections.abc import Iterator
from typing import Any

from splitc.errors import ModelError

_OPERATOR = re.compile(
    r"torch\.ops\.(?:aten\.(?!from_file)|prims\.|quantized_decomposed\.|torchvision\.)\w+\.\w+"
    r"|torch\.ops\.higher_order\.(?:cond|while_loop|scan|map_impl|wrap_with_set_grad_enabled"
    r"|wrap_with_autocast|invoke_subgraph|associative_scan)"
    r"|_operator\.(?:eq|ne|le|ge|lt|gt|neg|pos|mul|add|sub|floordiv|mod|pow|truediv|and_|or_"
    r"|lshift|rshift|getitem)"
    r"|math\.(?:trunc|ceil|floor)"
    r"|torch\.(?:sym_\w+|_sym_sqrt)"
)
_NAME = re.compile(r"(?:[A-Za-z_]\w*)?", re.ASCII)
_PATH = re.compile(r"[\w.+@\-]*", re.ASCII)
_NAMES = frozenset(("name", "forward_arg_names", "class_fqn"))
_PATHS = frozenset(
    (
        "parameter_name",
        "buffer_name",
        "tensor_constant_name",
        "fqn",
        "target_name",
        "user_input_name",
    )
)
_TREES = frozenset(("builtins.tuple", "builtins.list", "builtins.dict", "collections.OrderedDict"))
_FORBIDDEN = frozenset(("as_custom_obj", "custom_obj", "token"))
_DROPPED: dict[str, object] = {"metadata": {}, "guards_code": []}
_SYMBOLIC = frozenset(
    re.findall(
        r"\w+",
        "Symbol Integer Float Rational Add Mul Pow Max Min Mod And Or Not Eq Ne Lt Le Gt Ge "
        "Equality Unequality StrictLessThan LessThan StrictGreaterThan GreaterThan "
        "FloorDiv ModularIndexing "
        "Where PythonMod CleanDiv CeilToInt FloorToInt CeilDiv PowByNatural FloatTrueDiv "
        "IntTrueDiv IsNonOverlappingAndDenseIndicator TruncToFloat TruncToInt RoundToInt "
        "RoundDecimal ToFloat Identity floor ceiling Abs",
    )
)
_LONGEST = 4000
_POWERS = 4


def clean_program(text: bytes, where: str) -> bytes:
    """Check `models/model.json` and return it without guards and stack traces.

    Raises `ModelError` that names what is not allowed.
    """
    try:
        program = json.loads(text)
        if not isinstance(program, dict):
            raise ModelError("the program is not a JSON object", where=where)
        return json.dumps(_clean(program, "", where)).encode()
    except (ValueError, RecursionError) as error:
        raise ModelError("the program is not JSON, or nested too deeply", where=where) from error


def _clean(value: Any, key: str, where: str) -> Any:
    """Return `value`, which stands under `key`, checked and without what is dropped."""
    if key in _DROPPED and value is not None:
        return _DROPPED[key]
    if key in _FORBIDDEN and value is not None:
        raise ModelError("the archive holds a custom object or a token", where=where)
    if isinstance(value, dict):
        for name in value:
            _require(_PATH, name, "name", where)
        return {name: _clean(child, name, where) for name, child in value.items()}
    if isinstance(value, list):
        return [_clean(child, key, where) for child in value]
    if isinstance(value, str):
        _text(value, key, where)
    return value


def _text(value: str, key: str, where: str) -> None:
    """Check one string by the key under which it stands."""
    if key in ("target", "as_operator"):
        _require(_OPERATOR, value, "operator", where)
    elif key in _NAMES:
        _require(_NAME, value, "name", where)
    elif key in _PATHS:
        _require(_PATH, value, "name", where)
    elif key == "expr_str":
        check_expression(value, where)
    elif key in ("in_spec", "out_spec"):
        check_tree(value, where)


def _require(pattern: re.Pattern[str], value: str, what: str, where: str) -> None:
    if len(value) > _LONGEST or not pattern.fullmatch(value):
        raise ModelError(f"{what} {value[:80]!r} is not allowed in an archive", where=where)


def check_expression(text: str, where: str) -> None:
    """Refuse a size expression outside arithmetic on symbols and numbers: torch evaluates it."""
    refusal = ModelError(f"size {text[:80]!r} is not allowed in an archive", where=where)
    if len(text) > _LONGEST:
        raise refusal
    try:
        tree = ast.parse(text, mode="eval")
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise refusal from error
    nodes = list(ast.walk(tree.body))
    if sum(_exponent(node) is not None for node in nodes) > _POWERS or not all(map(_plain, nodes)):
        raise refusal


_ARITHMETIC = (
    ast.Name, ast.Load, ast.keyword, ast.BinOp, ast.UnaryOp, ast.Compare, ast.BoolOp, ast.Add,
    ast.Sub, ast.Mult, ast.Div, ast.FloorDiv, ast.Mod, ast.Pow, ast.USub, ast.UAdd, ast.And,
    ast.Or, ast.Not, ast.Eq, ast.NotEq, ast.Lt, ast.LtE, ast.Gt, ast.GtE,
)  # fmt: skip


def _plain(node: ast.AST) -> bool:
    """Tell whether one syntax node is harmless."""
    if (exponent := _exponent(node)) is not None and not _small(exponent):
        return False
    if isinstance(node, ast.Call):
        return isinstance(node.func, ast.Name) and node.func.id in _SYMBOLIC
    if isinstance(node, ast.Constant):
        return _constant(node.value)
    return isinstance(node, _ARITHMETIC)


def _constant(value: object) -> bool:
    if isinstance(value, str):
        return _PATH.fullmatch(value) is not None
    return isinstance(value, (bool, float)) or (isinstance(value, int) and abs(value) < 2**63)


def _exponent(node: ast.AST) -> ast.expr | None:
    """Return the exponent of a power, which alone makes huge numbers of a short text."""
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Pow):
        return node.right
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
        return node.args[-1] if node.func.id in ("Pow", "PowByNatural") and node.args else None
    return None


def _small(node: ast.expr) -> bool:
    """Tell whether an exponent is a number from -8 to 8."""
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and len(node.args) == 1:
        return node.func.id == "Integer" and _small(node.args[0])
    if isinstance(node, ast.UnaryOp):
        return isinstance(node.op, ast.USub) and _small(node.operand)
    return isinstance(node, ast.Constant) and type(node.value) is int and node.value <= 8


def check_tree(text: str, where: str) -> None:
    """Refuse a call convention of anything but tuples, lists and dicts with plain keys."""
    try:
        protocol, tree = json.loads(text)
        nodes = list(_tree_nodes(tree))
        kinds = {node["type"] for node in nodes}
        contexts = [json.loads(node["context"]) for node in nodes if node["context"] is not None]
    except (ValueError, TypeError, KeyError, RecursionError) as error:
        raise ModelError("a call convention is malformed", where=where) from error
    if protocol != 1 or (unknown := kinds - _TREES - {None}):
        names = ", ".join(sorted(map(str, unknown))) if protocol == 1 else f"protocol {protocol}"
        raise ModelError(
            f"inputs or outputs of type {names} are not read from an archive",
            where=where,
            hint="wrap the module so that it takes and returns tensors, tuples, lists and dicts",
        )
    for context in contexts:
        for key in context or []:
            if not isinstance(key, (str, int)):
                raise ModelError("a call convention is malformed", where=where)
            _require(_PATH, str(key), "name", where)


def _tree_nodes(tree: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield tree
    for child in tree["children_spec"]:
        yield from _tree_nodes(child)
