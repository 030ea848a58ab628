"""A vector added to a site: the usual activation steering (Turner et al., arXiv 2308.10248)."""

from __future__ import annotations

from ...core.errors import UsageError
from ...models import Add, Edit
from . import Target, operator


@operator("add_vector", sites=("*",), units=("rms", "value"), tensors={"vector": "n ..."})
def add_vector(target: Target) -> list[Edit]:
    """Add the vector times the strength; in rms it first gets root mean square 1, so that 1 is the size of the site.

    In unit `value` the vector counts as it is. Raises UsageError for the zero vector.
    """
    vector = target.tensors["vector"]
    size = float(vector.square().mean().sqrt())
    if size == 0.0:
        raise UsageError(f"operator add_vector at {target.site}: the vector is zero everywhere")
    unit = vector / size if target.unit == "rms" else vector
    return [Add(target.site, target.strength * unit, channels=target.channels)]
