"""The command line from a bare checkout: `python cli.py COMMAND`, mplat not installed; also a Ray job's entry point.

The packages mplat depends on must be importable. If mplat itself is not, the folder platform/ beside this file is
imported under that name; it is never put on the path, where its `datasets` would hide another package of that name.
"""

import importlib.util
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "platform"


def import_from_checkout() -> None:
    """Make `import mplat` mean the folder platform/ beside this file."""
    spec = importlib.util.spec_from_loader("mplat", loader=None, is_package=True)
    assert spec is not None and spec.submodule_search_locations is not None
    spec.submodule_search_locations.append(str(SOURCES))
    sys.modules["mplat"] = importlib.util.module_from_spec(spec)


if __name__ == "__main__":
    if importlib.util.find_spec("mplat") is None:
        import_from_checkout()
    try:
        from mplat.cli import main
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("mplat"):
            raise
        sys.exit(
            f"error: this Python ({sys.executable}) lacks {error.name}, which mplat depends on; "
            f"run `make test` once in {SOURCES.parent}, then use .venv/bin/python cli.py"
        )
    sys.exit(main())
