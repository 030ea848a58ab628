"""The parts of a Stable-Mamba layer as pure functions of tensors: gates, compression, timescales, sparse attention.

They know no parameters, no captures and no files; `stable_mamba` puts them together.
"""
