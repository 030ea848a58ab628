"""threadpoolctl has no types of its own: here is that of what is used."""

from contextlib import AbstractContextManager

def threadpool_limits(limits: int | None = None) -> AbstractContextManager[object]: ...
