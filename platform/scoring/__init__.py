"""Metrics of answers and statistics of small samples: pure functions that every stage may use."""
