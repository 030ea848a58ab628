"""The command line from a bare checkout: `python cli.py COMMAND`, mplat not installed; also a Ray job's entry point.

The packages mplat depends on must be importable. Unless the installed mplat has the same sources, the folder platform/
beside this file is imported under that name; it is never put on the path, where its `datasets` would hide another
package of that name.
"""

import importlib.util
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "platform"


def import_from_checkout() -> None:
    """Make `import mplat` mean the folder platform/ beside this file. Workers of Ray would import what is installed;
    `checkout` tells `mplat.runtime` not to let them."""
    spec = importlib.util.spec_from_loader("mplat", loader=None, is_package=True)
    assert spec is not None and spec.submodule_search_locations is not None
    spec.submodule_search_locations.append(str(SOURCES))
    module = sys.modules["mplat"] = importlib.util.module_from_spec(spec)
    module.checkout = str(SOURCES.parent)  # type: ignore[attr-defined]


def is_installed() -> bool:
    """Whether `import mplat` means this checkout, or a copy of it."""
    spec = importlib.util.find_spec("mplat")
    folders = [Path(place) for place in (spec.submodule_search_locations or ()) if Path(place).is_dir()] if spec else []
    return any(folder.samefile(SOURCES) or read_sources(folder) == read_sources(SOURCES) for folder in folders[:1])


def read_sources(folder: Path) -> dict[str, bytes]:
    """Every module below `folder` by its relative path."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.py")}


if __name__ == "__main__":
    if not is_installed():
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
