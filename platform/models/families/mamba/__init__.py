"""Mamba, Falcon Mamba, and the original checkpoints of state-spaces."""
