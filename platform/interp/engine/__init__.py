"""How analyses run: what a step is, their order, their keys, their cache, their batches."""
