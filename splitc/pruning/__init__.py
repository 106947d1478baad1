"""Pruning: which parts of a network go together, which are missed least, and their removal."""
