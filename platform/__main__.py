"""`python -m mplat`: the same command line as `mplat`."""

import sys

from .commands import main

if __name__ == "__main__":
    sys.exit(main(prog="python -m mplat"))
