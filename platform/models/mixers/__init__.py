"""Mixers: one file per architecture, each registered by a decorator and found by import.

A mixer is the part of a block that moves information along time. It subclasses `Mixer` and is decorated with
`@mixer("name")`; every module of this package is imported the first time a name is looked up, so that adding an
architecture means adding one file.
"""

from __future__ import annotations

from .registry import Mixer, full_name, get, mixer, names

__all__ = ["Mixer", "full_name", "get", "mixer", "names"]
