"""The plan: which cut to take, what it and the others cost, and the proof that none is better."""

from splitc.plan.choose import named, plan, replayed_tensors
from splitc.plan.entry import Certificate, Entry, Plan

__all__ = ["Certificate", "Entry", "Plan", "named", "plan", "replayed_tensors"]
