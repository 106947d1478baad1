"""The plan: which cut to take, what it and the others cost, and the proof that none is better."""

from splitc.plan.choose import plan
from splitc.plan.costs_file import plan_from_costs
from splitc.plan.entry import Certificate, Entry, Plan
from splitc.plan.naming import named, replayed_tensors
from splitc.plan.reader import Network

__all__ = [
    "Certificate",
    "Entry",
    "Network",
    "Plan",
    "named",
    "plan",
    "plan_from_costs",
    "replayed_tensors",
]
