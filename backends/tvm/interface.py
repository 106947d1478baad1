"""The text file beside compiled code that says what goes in and out, for any runner to read.

    input float32 1x3x224x224 image
    output float32 1x1000 logits

One tensor a line, in order; a scalar's shape is "-"; the name is the rest of the line.
"""

from collections.abc import Mapping, Sequence

from splitc.model import Fact

NAME = "interface.txt"


def write(inputs: Sequence[str], outputs: Sequence[str], facts: Mapping[str, Fact]) -> str:
    """Describe these tensors."""
    lines = [_line("input", name, facts[name]) for name in inputs]
    return "\n".join([*lines, *(_line("output", name, facts[name]) for name in outputs), ""])


def _line(way: str, name: str, fact: Fact) -> str:
    return f"{way} {fact.dtype} {'x'.join(map(str, fact.shape)) or '-'} {name}"
