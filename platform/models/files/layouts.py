"""Layouts: checkpoints as other programs wrote them, read and written with our parameter names.

A layout is one file `<name>_format.py` in this folder, found by import:

    @layout("original")
    class OriginalLayout(Layout): ...

`loading.load` asks every layout whether a folder is its own before it reads the folder as a Hugging Face one, and
`model.save(folder, layout=name)` writes it back. Nothing here reads or writes a file.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor

from ...core.errors import UsageError, suggest
from ...core.registry import Registry
from ..model_config import ModelConfig


class Layout:
    """Base of all layouts. Weights go by name; `content` is what config.json holds.

    architectures: those that can be saved in this layout. weight_file: the name of the file that `write_weights` makes.
    hub_files: patterns of files to fetch from the hub, besides the usual ones.
    """

    name: ClassVar[str] = ""
    architectures: ClassVar[frozenset[str]] = frozenset()
    weight_file: ClassVar[str] = "pytorch_model.bin"
    hub_files: ClassVar[tuple[str, ...]] = ()

    def recognises(self, folder: Path, content: Mapping[str, Any] | None) -> bool:
        """Whether `folder` has this layout; content is None where it has no config.json."""
        raise UsageError(f"layout {self.name!r} recognises nothing")

    def read_config(self, folder: Path, content: Mapping[str, Any]) -> ModelConfig:
        """The configuration. Raises InputError for parts that this program does not compute, naming the key."""
        raise UsageError(f"layout {self.name!r} cannot be read")

    def read_weights(self, folder: Path) -> dict[str, Tensor] | None:
        """The tensors by the layout's names; None: they are in one of the usual files, which `loading` reads.

        Whoever overrides this reads pickles with `torch.load(weights_only=True)` and raises InputError for a file that
        is damaged or holds more.
        """
        return None

    def rename(self, weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        """Our parameter names for the layout's tensors."""
        raise UsageError(f"layout {self.name!r} cannot be read")

    def write_config(self, config: ModelConfig) -> dict[str, Any]:
        """The content of config.json; inverse of `read_config`."""
        raise UsageError(f"layout {self.name!r} cannot be written")

    def restore_names(self, weights: Mapping[str, Tensor], config: ModelConfig) -> dict[str, Tensor]:
        """The layout's names for our tensors; inverse of `rename`."""
        raise UsageError(f"layout {self.name!r} cannot be written")

    def write_weights(self, weights: Mapping[str, Tensor], path: Path) -> None:
        """Write tensors that carry the layout's names to `path`, which is renamed to `weight_file` afterwards."""
        torch.save(dict(weights), path)


LAYOUTS: Registry[Layout] = Registry("layout", "layout", __name__, "..families")
layout, layouts = LAYOUTS.instance, LAYOUTS.all


def recognise(folder: Path, content: Mapping[str, Any] | None) -> Layout | None:
    """The layout of `folder`, None if it is a Hugging Face folder; content is None where it has no config.json."""
    return next((found for found in layouts().values() if found.recognises(folder, content)), None)


def for_saving(name: str, arch: str) -> Layout:
    """The layout called `name`. Raises UsageError, naming those there are, if it cannot hold a model of `arch`."""
    known = layouts()
    fitting = ["hf", *(n for n, found in known.items() if arch in found.architectures)]
    if name not in known:
        raise UsageError(f"unknown layout {name!r}; {suggest(name, fitting)}")
    if name not in fitting:
        raise UsageError(f"layout {name!r} holds no {arch} models; {suggest(name, fitting)}")
    return known[name]
