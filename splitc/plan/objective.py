"""The price list as a minimum-cut problem: in seconds, or in the joules of the device."""

from collections.abc import Mapping

from splitc.cost.table import CostTable
from splitc.cuts import cuttable
from splitc.plan.problem import Problem

Refusals = Mapping[str, Mapping[str, str]]
"""Side → node → why its backend cannot take it."""

_FORBIDDEN = float("inf")


def problem(table: CostTable, refusals: Refusals) -> Problem:
    """Write the price list as a minimum-cut problem in seconds, or in the device's joules."""
    weigh = _latency if table.scenario.objective == "latency" else _energy
    prices = weigh(table)
    free = cuttable(table.model) | set(table.graph.inputs)
    send = {
        t: prices.send.get(t, _FORBIDDEN) if t in free else _FORBIDDEN for t in table.graph.tensors
    }
    back = {o: prices.back.get(o, _FORBIDDEN) for o in table.graph.outputs}
    return Problem(
        graph=table.graph,
        head=prices.head,
        tail=prices.tail,
        send=send,
        back=back,
        offload=prices.offload,
        groups=tuple(group for group in table.groups if len(group) > 1),
        only_head=frozenset(refusals.get("tail", ())),
        only_tail=frozenset(refusals.get("head", ())),
    )


def _latency(table: CostTable) -> Problem:
    wire = table.wire
    send = {
        t: size * wire.up_s_per_byte + wire.encode_s[t] + wire.decode_s[t]
        for t, size in wire.bytes.items()
    }
    back = {o: size * wire.down_s_per_byte for o, size in wire.back_bytes.items()}
    once = wire.rtt_s + wire.frame_bytes * (wire.up_s_per_byte + wire.down_s_per_byte)
    return Problem(table.graph, table.head_s, table.tail_s, send, back, once)


def _energy(table: CostTable) -> Problem:
    """Return the device's joules: it computes, sends, and waits while the server works."""
    wire, busy, idle = table.wire, table.head_w, table.head_idle_w
    listening = idle + table.radio_down_w
    send = {
        t: size * wire.up_s_per_byte * table.radio_up_w
        + busy * wire.encode_s[t]
        + idle * wire.decode_s[t]
        for t, size in wire.bytes.items()
    }
    back = {o: size * wire.down_s_per_byte * listening for o, size in wire.back_bytes.items()}
    up = wire.up_s_per_byte * table.radio_up_w
    once = idle * wire.rtt_s + wire.frame_bytes * (up + wire.down_s_per_byte * listening)
    head = {n: busy * s for n, s in table.head_s.items()}
    tail = {n: idle * s for n, s in table.tail_s.items()}
    return Problem(table.graph, head, tail, send, back, once)
