"""Evaluation: answer metrics as the official evaluators define them, and everything that turns answers into numbers."""
