"""Tokenised corpora: their folders, what is held out of them, what is in them twice, and the order they are read in."""
