"""The bridge to lm-evaluation-harness: its model class `mplat`, which asks a model of ours, steered by a recipe or not.

Nothing is imported here: the harness comes with the extra `lm-eval`. `harness_model` holds the class and registers it,
`python -m mplat.eval.harness` is the harness's own command line with it; `continuations` and `shared_reading` compute
and need no harness.
"""
