"""One question taken apart: where its evidence is written, how long it is held, which blocks read it."""
