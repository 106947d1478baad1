"""The price of one cut, addend by addend.

    latency = head + encode + uplink + rtt + decode + tail + downlink
    device  = active · (head + encode) + radio · air time + idle · (rtt + decode + tail + downlink)

An empty tail pays for the head alone. A cut through a fused group prices its parts on their own.
"""

from collections.abc import Set
from dataclasses import dataclass

from splitc.cost.table import CostTable


@dataclass(frozen=True)
class Price:
    """Bytes on the wire with their frame, seconds, joules, and bytes of memory of one cut."""

    wire_bytes: float
    return_bytes: float
    latency_s: float
    energy_j: dict[str, float]
    head_weight_bytes: int
    head_peak_bytes: int
    tail_weight_bytes: int
    tail_peak_bytes: int
    addends: dict[str, float]


def price(table: CostTable, head_nodes: Set[str]) -> Price:
    """Price the cut whose head has these nodes (closed under predecessors)."""
    graph, wire = table.graph, table.wire
    head = set(head_nodes)
    tail = {node.id for node in graph.nodes if node.id not in head}
    crossing = graph.boundary(head) if tail else ()
    back = [o for o in graph.outputs if graph.producer.get(o) in tail]
    up = wire.frame_bytes + sum(wire.bytes[t] for t in crossing) if tail else 0
    down = wire.frame_bytes + sum(wire.back_bytes[o] for o in back) if tail else 0
    head_s, tail_s = compute_s(table, head, tail)
    addends = {
        "head_s": head_s,
        "encode_s": sum(wire.encode_s[t] for t in crossing),
        "uplink_s": up * wire.up_s_per_byte,
        "rtt_s": wire.rtt_s if tail else 0.0,
        "decode_s": sum(wire.decode_s[t] for t in crossing),
        "tail_s": tail_s,
        "downlink_s": down * wire.down_s_per_byte,
    }
    return Price(
        wire_bytes=up,
        return_bytes=down,
        latency_s=sum(addends.values()),
        energy_j=energy(table, addends),
        head_weight_bytes=table.memory.weights(head),
        head_peak_bytes=table.memory.peak(head),
        tail_weight_bytes=table.memory.weights(tail),
        tail_peak_bytes=table.memory.peak(tail),
        addends=addends,
    )


def compute_s(table: CostTable, head: Set[str], tail: Set[str]) -> tuple[float, float]:
    """Return the seconds of both sides; groups that the cut goes through are summed by parts."""
    head_s, tail_s = 0.0, 0.0
    for group in table.groups:
        here = [name for name in group if name in head]
        there = [name for name in group if name in tail]
        if here and there:
            head_s += table.head_part_s(here)
            tail_s += table.tail_part_s(there)
        elif here:
            head_s += sum(table.head_s[name] for name in here)
        else:
            tail_s += sum(table.tail_s[name] for name in there)
    return head_s, tail_s


def energy(table: CostTable, addends: dict[str, float]) -> dict[str, float]:
    """Return joules: of the device's computing, radio and waiting, their sum, and the server's."""
    waiting = sum(addends[key] for key in ("rtt_s", "decode_s", "tail_s", "downlink_s"))
    parts = {
        "compute": table.head_w * (addends["head_s"] + addends["encode_s"]),
        "radio": table.radio_up_w * addends["uplink_s"]
        + table.radio_down_w * addends["downlink_s"],
        "idle": table.head_idle_w * waiting,
    }
    server = table.tail_w * (addends["tail_s"] + addends["decode_s"])
    return {**parts, "device": sum(parts.values()), "server": server}
