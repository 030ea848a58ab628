"""The long causal convolution of Hyena."""
