"""Evaluation: official answer metrics, and the experiment that tells whether steering helps.

`planning.prepare` turns settings into a plan, `runner.evaluate` runs it, `summary` and `verdict` say what came out.
Nothing is imported here: metrics alone need no torch.
"""
