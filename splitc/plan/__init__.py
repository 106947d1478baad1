"""The plan: which cut to take, what it and the others cost, and the proof that none is better."""
