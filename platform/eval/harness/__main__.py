"""`python -m mplat.eval.harness ...`: the command line of lm-evaluation-harness, with the model class `mplat` in it."""

from __future__ import annotations

import sys


def main() -> None:
    """Register the class, then let the harness read the command line."""
    try:
        from lm_eval.__main__ import cli_evaluate
    except ModuleNotFoundError as error:
        if error.name != "lm_eval":
            raise
        sys.exit("error: lm-evaluation-harness is not installed; pip install 'mplat[lm-eval]'")
    from . import harness_model  # noqa: F401  registers the class

    cli_evaluate()


if __name__ == "__main__":
    main()
