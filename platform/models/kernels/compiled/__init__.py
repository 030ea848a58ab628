"""What compiled kernels share: vectors, threads, launching, and whole loops of a small model."""
