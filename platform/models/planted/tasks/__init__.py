"""The planted tasks, one file each."""
