"""The architectures, one folder each: its mixer, the parts of it alone, and the formats of other programs for it."""
