"""The price of one cut, addend by addend.

    latency = head + encode + uplink + rtt + decode + tail + downlink
    device  = active · (head + encode) + radio · air time + idle · (rtt + decode + tail + downlink)

An empty tail pays for the head alone. A cut through a fused group prices its parts on their own.
"""

from collections.abc import Set
from dataclasses import dataclass

import numpy as np

from splitc.cost.numbered import Bools
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
    graph, wire, numbered = table.graph, table.wire, table.numbered
    head = numbered.mask(head_nodes)
    tail = ~head
    offloads = bool(tail.any())
    crossing = numbered.crossing(head) if offloads else []
    back = [o for o in graph.outputs if o in graph.producer and graph.producer[o] not in head_nodes]
    up = wire.frame_bytes + sum(wire.bytes[t] for t in crossing) if offloads else 0
    down = wire.frame_bytes + sum(wire.back_bytes[o] for o in back) if offloads else 0
    head_s, tail_s = compute_s(table, head)
    addends = {
        "head_s": head_s,
        "encode_s": sum(wire.encode_s[t] for t in crossing),
        "uplink_s": up * wire.up_s_per_byte,
        "rtt_s": wire.rtt_s if offloads else 0.0,
        "decode_s": sum(wire.decode_s[t] for t in crossing),
        "tail_s": tail_s,
        "downlink_s": down * wire.down_s_per_byte,
    }
    return Price(
        wire_bytes=up,
        return_bytes=down,
        latency_s=sum(addends.values()),
        energy_j=energy(table, addends),
        head_weight_bytes=table.memory.side_weights(head),
        head_peak_bytes=table.memory.side_peak(head),
        tail_weight_bytes=table.memory.side_weights(tail),
        tail_peak_bytes=table.memory.side_peak(tail),
        addends=addends,
    )


def compute_s(table: CostTable, head: Bools) -> tuple[float, float]:
    """Return the seconds of both sides; groups that the cut goes through are summed by parts.

    `head`: over the graph's nodes. A group's first node is an ancestor of all of it and its last
    a descendant, so the cut goes through it when the first is in the head and the last is not.
    """
    here, there = head.copy(), ~head
    parts_head = parts_tail = 0.0
    first, last, members = table.fused
    for at in np.flatnonzero(head[first] & ~head[last]).tolist():
        names = [table.graph.nodes[node].id for node in members[at]]
        inside = head[members[at]].tolist()
        parts_head += table.head_part_s([n for n, own in zip(names, inside, strict=True) if own])
        parts_tail += table.tail_part_s(
            [n for n, own in zip(names, inside, strict=True) if not own]
        )
        here[members[at]] = there[members[at]] = False
    seconds_head, seconds_tail = table.seconds
    return parts_head + float(seconds_head[here].sum()), parts_tail + float(
        seconds_tail[there].sum()
    )


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
