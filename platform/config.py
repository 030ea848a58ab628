"""Configuration under its public name; it is defined in `core.config`."""

from __future__ import annotations

from .core.config import Config, FromOption, differing_keys, dump_config, load_config

__all__ = ["Config", "FromOption", "differing_keys", "dump_config", "load_config"]
