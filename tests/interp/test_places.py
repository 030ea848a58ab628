"""Where steps look: sites that some blocks have and others do not, and those that a model may lack."""

from __future__ import annotations

import pytest
from model_zoo import ARCHITECTURES, nano
from mplat.core.errors import UsageError
from mplat.interp.engine.places import places, relative_names


def test_a_site_is_looked_at_where_a_block_has_it() -> None:
    model = nano("moe_mamba", n_layers=4)
    found = places(model, [0, 1, 2, 3], ["mixer_out", "delta", "mixer.expert_out"])
    assert [(p.layer, p.site) for p in found] == [
        (0, "mixer_out"), (0, "mixer.delta"), (1, "mixer_out"), (1, "mixer.expert_out"),
        (2, "mixer_out"), (2, "mixer.delta"), (3, "mixer_out"), (3, "mixer.expert_out"),
    ]  # fmt: skip
    with pytest.raises(UsageError, match="none of the blocks 1, 3 has it"):
        places(model, [1, 3], ["mixer_out", "mixer.delta"])
    assert [p.site for p in places(model, [1], ["mixer_out", "mixer.delta?"])] == ["mixer_out"]


def test_a_question_mark_leaves_out_what_the_model_does_not_have() -> None:
    model = nano("hyena")
    assert relative_names(model, ["mixer_out", "mixer.delta?"]) == ["mixer_out"]
    with pytest.raises(UsageError, match=r"no site 'mixer.delta'"):
        relative_names(model, ["mixer_out", "mixer.delta"])
    with pytest.raises(UsageError, match="at least one site"):
        places(model, [0], ["mixer.delta?"])


def test_a_value_that_is_the_same_for_all_tokens_will_not_do() -> None:
    with pytest.raises(UsageError, match="for all tokens"):
        places(nano("hyena"), [0], ["mixer.filter"])


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_the_defaults_of_every_step_fit_every_architecture(arch: str) -> None:
    from mplat.interp.engine.graph import all_steps

    model = nano(arch)
    for step in all_steps().values():
        for site in getattr(step.settings(), "sites", ()):
            assert relative_names(model, [site]) or site.endswith("?")
