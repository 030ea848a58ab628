"""pyarrow has no types of its own: whatever it has is Any."""

from typing import Any

def __getattr__(name: str) -> Any: ...
