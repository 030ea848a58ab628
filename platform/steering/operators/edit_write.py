"""What single tokens write into the recurrent state, w_t B_t x_t of rank one: deleted, scaled, or replaced by an atom.

Nothing else of these tokens changes: their own read-out D x, the convolution, and what they read. The state that has
lost or gained a write is followed exactly; `mplat.steering.write_effects` says in closed form what that does to the
logits, beside what it really does.
"""

from __future__ import annotations

from ...core.errors import UsageError
from ...models import Edit, Interpolate, Scale
from . import Target, operator
from .state_sites import WRITES


@operator("edit_write", sites=WRITES, units=("factor", "share"), tensors={"atom?": "n ..."})
def edit_write(target: Target) -> list[Edit]:
    """Multiply what tokens write into the state, 0 deletes it; or move it towards an atom, a share of 1 replaces it.

    Raises UsageError for an atom in unit factor, and for none in unit share.
    """
    atom = target.tensors.get("atom")
    if (atom is None) == (target.unit == "share"):
        raise UsageError(
            f"operator edit_write at {target.site}: an atom goes with unit 'share', and 'share' with an atom"
        )
    if atom is None:
        return [Scale(target.site, target.strength, channels=target.channels)]
    return [Interpolate(target.site, atom, target.strength, channels=target.channels)]
