"""DenseMamba."""
