"""Our architectures in the Auto classes of transformers."""
