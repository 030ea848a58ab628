"""One file for each data set that can be read, and what they share."""
