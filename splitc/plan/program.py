"""The search without limits as a mixed-integer program, to which limits can be added.

Variables: x[v] = 1, node v is on the head (nodes that must stay together share one); y[t], tensor
t crosses; z, the tail is not empty.

    minimise  Σ head·x + tail·(1-x) + back·(1-x) + Σ send·y + offload·z
    x[r] ≤ x[p],  y[t] ≥ x[p] - x[r]      p makes t (1 for a graph input), r reads it

Without limits all corners of these rows are whole numbers; y and z need not be declared so.
"""

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from splitc.plan.network import Forced
from splitc.plan.problem import Bools, Indexed, Prices

NODES = 50_000
"""Branch-and-cut nodes until the search stops with the best cut so far, and a gap that says so."""

_UNIT = 1e4
"""The objective is scaled so that the best cut without limits costs this: HiGHS stops at an
absolute gap of 1e-6, so at 1e-10 of the optimum."""


@dataclass
class Program:
    """A mixed-integer program under construction: columns with costs and bounds, sparse rows."""

    cost: list[float] = field(default_factory=list)
    lower: list[float] = field(default_factory=list)
    upper: list[float] = field(default_factory=list)
    integral: list[int] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    column: list[int] = field(default_factory=list)
    value: list[float] = field(default_factory=list)
    least: list[float] = field(default_factory=list)
    most: list[float] = field(default_factory=list)

    def add(self, cost: float = 0.0, *, upper: float = 1.0, integral: bool = False) -> int:
        """Add a variable from 0 to `upper`; return its number."""
        self.cost.append(cost)
        self.lower.append(0.0)
        self.upper.append(upper)
        self.integral.append(int(integral))
        return len(self.cost) - 1

    def at_most(
        self, terms: list[tuple[int, float]], most: float, least: float = -math.inf
    ) -> None:
        """Add the row `least` ≤ Σ value · variable ≤ `most`; terms of one variable add up."""
        self.row += [len(self.most)] * len(terms)
        self.column += [column for column, _ in terms]
        self.value += [value for _, value in terms]
        self.least.append(least)
        self.most.append(most)

    def solve(self) -> Any:
        """Run HiGHS to optimality, or to the limit of nodes."""
        from scipy.optimize import Bounds, LinearConstraint, milp
        from scipy.sparse import csr_array

        shape = (len(self.most), len(self.cost))
        rows = csr_array((self.value, (self.row, self.column)), shape=shape)
        return milp(
            self.cost,
            integrality=np.array(self.integral),
            bounds=Bounds(self.lower, self.upper),
            constraints=LinearConstraint(rows, self.least, self.most),
            options={"mip_rel_gap": 0.0, "node_limit": NODES},
        )


@dataclass(frozen=True)
class Variables:
    """The program and where its variables stand: x by node, y by tensor."""

    program: Program
    x: list[int]
    y: list[int]
    constant: float
    unit: float


def program_of(indexed: Indexed, prices: Prices, forced: Forced, optimum: float) -> Variables:
    """Write the search without limits as a program."""
    unit = _UNIT / optimum if optimum > 0 else 1.0
    program = Program()
    finite = prices.finite()
    there = finite.tail.copy()
    np.add.at(there, indexed.producer[indexed.outputs], finite.back[indexed.outputs])
    gain = np.bincount(forced.vertex, (finite.head - there) * unit)
    fixed_head = np.bincount(forced.vertex, forced.head) > 0
    fixed_tail = np.bincount(forced.vertex, forced.tail) > 0
    vertex = [program.add(float(cost), integral=True) for cost in gain]
    for at in np.flatnonzero(fixed_head).tolist():
        program.lower[vertex[at]] = 1.0
    for at in np.flatnonzero(fixed_tail).tolist():
        program.upper[vertex[at]] = 0.0
    x = [vertex[at] for at in forced.vertex.tolist()]
    y = [program.add(float(cost) * unit) for cost in finite.send]
    z = program.add(float(finite.offload) * unit)
    for node in x:
        program.at_most([(node, -1.0), (z, -1.0)], -1.0)
    for tensor, reader in zip(
        indexed.edge_tensor.tolist(), indexed.edge_reader.tolist(), strict=True
    ):
        maker = int(indexed.producer[tensor])
        let_cross(program, y[tensor], x[maker] if maker >= 0 else None, x[reader])
        if maker >= 0:
            program.at_most([(x[reader], 1.0), (x[maker], -1.0)], 0.0)
    return Variables(program, x, y, float(there.sum()), unit)


def let_cross(program: Program, crossing: int, maker: int | None, reader: int) -> None:
    """Let crossing be ≥ x[maker] - x[reader], the maker of a graph input being 1."""
    if maker is None:
        program.at_most([(crossing, -1.0), (reader, -1.0)], -1.0)
    else:
        program.at_most([(maker, 1.0), (reader, -1.0), (crossing, -1.0)], 0.0)


def exclude(made: Variables, head: Bools) -> None:
    """Forbid exactly this head."""
    chosen = {x: bool(kept) for x, kept in zip(made.x, head.tolist(), strict=True)}
    terms = [(x, -1.0 if kept else 1.0) for x, kept in chosen.items()]
    made.program.at_most(terms, math.inf, 1.0 - sum(chosen.values()))
