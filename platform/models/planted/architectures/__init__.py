"""How a plan becomes weights, one file for each architecture."""
