"""Ask TensorRT-RTX's real parser and builder, which work without a GPU, about a segment."""

from dataclasses import dataclass, field

from splitc.backend import Refusals
from splitc.backends.tensorrt import blame, child
from splitc.backends.tensorrt.child import RTX, Order, Outcome
from splitc.backends.tensorrt.recipe import Build, Evidence, numbers, profile
from splitc.backends.tensorrt.refusals import RTX_LACKS
from splitc.model import Model

CAPABILITIES = ("7.5", "8.0", "8.6", "8.9", "12.0", "12.1")
"""What TensorRT-RTX 1.7 builds for: not 8.7 (Orin), 9.0 (H100, H200) or 10.x (B200)."""

ROUNDS = 25
"""How many times a segment is asked again without the nodes that were refused."""

LIMITS = (
    "TensorRT-RTX is not TensorRT: its runtime and plugins differ, its engine does not load there",
    "built, not run: no GPU was used",
)


@dataclass(frozen=True)
class Verdict:
    """What became of a segment: an engine, or node → why it is refused."""

    outcome: Outcome
    capability: str
    refused: Refusals = field(default_factory=dict)


def judge(segment: Model, capability: str, build: Build | None = None) -> Verdict:
    """Build a segment for one of `CAPABILITIES`."""

    def attempt(some: Model) -> Outcome:
        order = Order(profile(some), capability.replace(".", ""), build or Build())
        return child.build(some, order)

    outcome = attempt(segment)
    if outcome.engine is not None:
        return Verdict(outcome, capability)
    return Verdict(outcome, capability, blame.refused(segment, outcome, attempt))


def nearest(capability: str) -> str:
    """Return the capability to judge with: itself, else the next lower one that there is."""
    wanted = numbers(capability or "8.9")
    below = [known for known in CAPABILITIES if numbers(known) <= wanted]
    return below[-1] if below else CAPABILITIES[0]


def evidence(segment: Model, capability: str) -> Evidence:
    """Return the verdict on a segment for the record; not-run where TensorRT-RTX is missing."""
    if missing := RTX.missing():
        return Evidence(verdict="not-run", why=missing, limits=LIMITS)
    near = nearest(capability)
    limits: tuple[str, ...] = LIMITS
    if near != capability and capability:
        limits = (*limits, f"built for {near}: TensorRT-RTX has no {capability}")
    made = judge(segment, near)
    return Evidence(
        verdict="refused" if made.outcome.engine is None else "builds",
        by=f"TensorRT-RTX {made.outcome.version}",
        refused=dict(made.refused),
        compute_capability=near,
        limits=limits,
    )


def certain(segment: Model, seen: Evidence) -> dict[str, str]:
    """Return what TensorRT must refuse too: its parser is the same; builder and plugins are not."""
    return {
        node: why
        for node, why in seen.refused.items()
        if why.startswith(blame.PARSER) and segment.nodes[node].op_type not in RTX_LACKS
    }


def examine(segment: Model, known: Refusals, capability: str) -> dict[str, str]:
    """Return all nodes that are refused, `known` ones first: each round asks about the rest."""
    found = dict(known)
    for _ in range(ROUNDS):
        rest = blame.without(segment, set(found)) if found else segment
        if rest is None:
            break
        fresh = judge(rest, nearest(capability)).refused
        if not fresh.keys() - found.keys():
            break
        found = {**fresh, **found}
    return found
