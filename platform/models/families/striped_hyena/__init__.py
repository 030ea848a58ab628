"""StripedHyena and its checkpoints."""
