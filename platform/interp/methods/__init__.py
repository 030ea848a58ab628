"""What analyses compute with: causal tracing and its relatives, decays, evidence, comparisons with chance."""
