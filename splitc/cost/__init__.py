"""Prices: groups, roofline, wire, energy and memory. `table` prices a model, `price` a cut."""

from splitc.cost.groups import groups
from splitc.cost.price import Price, price
from splitc.cost.table import CostTable, alone, table

__all__ = ["CostTable", "Price", "alone", "groups", "price", "table"]
