"""One token of a recurrence or a convolution, for decoding."""
