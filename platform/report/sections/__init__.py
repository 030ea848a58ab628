"""The parts of a report, one file each: what a run folder holds, as the values that are shown."""
