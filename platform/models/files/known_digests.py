"""Whether the weights in a folder are those that somebody wrote there: a digest is compared wherever one is known.

A checkpoint of a training run has its files' digests in manifest.json, the model that a run exported in the run.json
beside it, and a shipped model the digest of weights, shape and tokenizer in DIGEST. Other folders say nothing.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...core.errors import InputError
from ...core.inside import leads_down
from ...core.json_files import read_object

if TYPE_CHECKING:
    from ..model import LanguageModel

DIGEST_FILE = "DIGEST"
_MANIFEST, _RUN, _MODEL = "manifest.json", "run.json", "model"


def check_files(folder: Path) -> None:
    """Raise InputError naming a weight file of a checkpoint or an exported model that is not the one that was written.

    A record that cannot be read, or is none of a training run, says nothing: a folder of weights may hold any file."""
    for name, (sha256, source) in _written(folder).items():
        path = folder / name
        if not path.is_file():
            continue  # whoever reads the weights says that
        with path.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != sha256:
            raise InputError(
                f"{path}: is not the file that was written here, its sha256 is {found[:16]} and {source} says "
                f"{str(sha256)[:16]}; copy the folder again"
            )


def check_shipped(model: LanguageModel, folder: Path) -> None:
    """Raise InputError where a shipped model is not what its DIGEST says."""
    path = folder / DIGEST_FILE
    if path.is_file() and (said := path.read_text(encoding="utf-8", errors="replace").strip()) != model.digest:
        raise InputError(
            f"{model.name}: is not what was shipped, its digest is {model.digest[:16]} and {path} says {said[:16]}; "
            "reinstall mplat"
        )


def _written(folder: Path) -> dict[str, tuple[Any, Path]]:
    """Weight file -> its sha256 and the file that says so."""
    manifest, run = folder / _MANIFEST, folder.parent / _RUN
    try:
        if manifest.is_file():
            files: Any = read_object(manifest).get("files")
            found = {n: about.get("sha256") for n, about in files.items() if isinstance(about, dict)}
            source = manifest
        elif folder.name == _MODEL and run.is_file() and (record := read_object(run)).get("command") == "train":
            files = record.get("files")
            found = {n.removeprefix(f"{_MODEL}/"): sha256 for n, sha256 in files.items()}
            source = run
        else:
            return {}
    except (InputError, AttributeError):
        return {}
    return {n: (sha256, source) for n, sha256 in found.items() if leads_down(n) and n.endswith(".safetensors")}
