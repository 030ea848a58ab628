"""mplat trains, dissects and steers state-space language models.

    import mplat
    model = mplat.load("tiny-mamba2")
    logits, acts = model.run_with_cache("Sisgat lives in Karfen.", "blocks.*.mixer.delta")

This is what `import mplat` gives: the names of `mplat.models`, the sub-packages and `__version__`, each imported when
it is first asked for. It is a file of its own because the modules lie in the folder platform/, which can have no
`__init__.py`: one would hide Python's own module `platform` from whatever is started beside it. Where mplat is
installed the modules lie beside this file; in a checkout `__path__` says where they are.
"""

from __future__ import annotations

from importlib import import_module as _import_module
from pathlib import Path as _Path
from typing import TYPE_CHECKING, Any

if not (_Path(__file__).parent / "errors.py").exists():
    __path__ = [str(_Path(__file__).resolve().parents[2] / "platform")]
    if __spec__ is not None:
        __spec__.submodule_search_locations = __path__

if TYPE_CHECKING:
    from mplat.models import *  # noqa: F403

    __version__: str


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name.startswith("_"):
        raise AttributeError(f"module 'mplat' has no attribute {name!r}")
    try:
        return _import_module(f"mplat.{name}")
    except ModuleNotFoundError as error:
        if error.name != f"mplat.{name}":
            raise
    models = _import_module("mplat.models")
    if name not in models.__all__:
        raise AttributeError(f"module 'mplat' has no attribute {name!r}")
    return getattr(models, name)


def __dir__() -> list[str]:
    return sorted({*globals(), "__version__", *_import_module("mplat.models").__all__})


def _version() -> str:
    """That of the installed package; of a checkout that is not installed what its pyproject.toml says."""
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("mplat")
    except PackageNotFoundError:
        import tomllib

        project = _Path(__path__[0]).parent / "pyproject.toml"
        return str(tomllib.loads(project.read_text(encoding="utf-8"))["project"]["version"])
