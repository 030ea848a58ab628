"""Models as files: finding, reading and writing them."""
