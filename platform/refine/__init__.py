"""`mplat refine`: the part of a corpus that a larger model has more to teach on."""
