"""The command line from a bare checkout: `python cli.py COMMAND`, mplat not installed; also a Ray job's entry point.

The packages mplat depends on must be importable. Unless the installed mplat has the same sources, the folder platform/
beside this file is imported under that name; it is never put on the path, where its `datasets` would hide another
package of that name.
"""

import importlib.util
import sys
from pathlib import Path

SOURCES = Path(__file__).resolve().parent / "platform"
FRONT = SOURCES.parent / "front" / "mplat" / "__init__.py"


def import_from_checkout() -> None:
    """Make `import mplat` mean the folder platform/ beside this file. Workers of Ray would import what is installed;
    `checkout` tells `mplat.runtime` not to let them."""
    if FRONT.exists():
        spec = importlib.util.spec_from_file_location("mplat", FRONT, submodule_search_locations=[str(SOURCES)])
    else:  # only cli.py and platform/ were copied
        spec = importlib.util.spec_from_loader("mplat", loader=None, is_package=True)
    assert spec is not None and spec.submodule_search_locations is not None
    spec.submodule_search_locations[:] = [str(SOURCES)]
    module = sys.modules["mplat"] = importlib.util.module_from_spec(spec)
    module.checkout = str(SOURCES.parent)  # type: ignore[attr-defined]
    if spec.loader is not None:
        spec.loader.exec_module(module)


def is_installed() -> bool:
    """Whether `import mplat` means this checkout, or a copy of it."""
    try:
        found = importlib.util.find_spec("mplat.errors")
    except ImportError:
        found = None
    if found is None or found.origin is None:
        return False
    folder = Path(found.origin).parent
    return folder.samefile(SOURCES) or read_sources(folder) == read_sources(SOURCES)


def read_sources(folder: Path) -> dict[str, bytes]:
    """Every module below `folder` by its relative path, but for the `__init__.py` that an installation puts there."""
    found = {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.py")}
    found.pop("__init__.py", None)
    return found


if __name__ == "__main__":
    if not is_installed():
        import_from_checkout()
    try:
        from mplat.commands import main
    except ModuleNotFoundError as error:
        if error.name is None or error.name.startswith("mplat"):
            raise
        sys.exit(
            f"error: this Python ({sys.executable}) lacks {error.name}, which mplat depends on; "
            f"run `make test` once in {SOURCES.parent}, then use .venv/bin/python cli.py"
        )
    sys.exit(main())
