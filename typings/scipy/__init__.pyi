"""scipy has no types of its own: here are those of what is used, and the rest is Any."""

from typing import Any

def __getattr__(name: str) -> Any: ...
