"""Trackers of experiments, one file each; see `..tracker`."""
