"""How well a network does its task, and whether a changed one still does: metrics and the gate."""

from splitc.accuracy.gate import Gate, Score, Verdict, judge, measure
from splitc.accuracy.metrics import Agreement, Custom, Metric, Top1, metric
from splitc.accuracy.results import Results, joined, predict, snr_db

__all__ = [
    "Agreement",
    "Custom",
    "Gate",
    "Metric",
    "Results",
    "Score",
    "Top1",
    "Verdict",
    "joined",
    "judge",
    "measure",
    "metric",
    "predict",
    "snr_db",
]
