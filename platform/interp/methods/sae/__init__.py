"""Sparse autoencoders of activations: kinds, training, what they are measured by, and their files."""
