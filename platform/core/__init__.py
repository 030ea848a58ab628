"""What everything may use: errors, configuration, whole files, locks, folders, digests of code."""
