"""Arguments of a trace that cannot be meant: what is wrong, where, and what to do. And the size of the noise."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from model_zoo import nano, tokens
from mplat.core.errors import InputError, UsageError
from mplat.interp.tracing import causal_trace, subject_noise
from mplat.models import LanguageModel

T = 6


@pytest.fixture(scope="module")
def model() -> LanguageModel:
    return nano("mamba")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"subject": (2, 2)}, r"subject \(2, 2\) is empty"),
        ({"subject": (4, 7)}, "outside of the prompt, which has positions 0 to 5"),
        ({"subject": (-1, 2)}, "outside of the prompt"),
        ({"subject": 3}, r"subject must be \(start, stop\)"),
        ({}, "nothing to corrupt: give subject"),
        ({"noise": 0.0}, "changes nothing; give a positive number"),
        ({"noise": math.nan}, "changes nothing; give a positive number"),
        ({"samples": 0}, "samples, the number of noisy runs, must be an integer of at least 1, not 0"),
        ({"window": 0}, "window, a number of layers, must be an integer of at least 1"),
        ({"memory_budget": 10}, "too small for one sample of 6 tokens.*give at least"),
        ({"memory_budget": 1.5}, "memory_budget, a number of bytes, must be an integer"),
        ({"layers": [2]}, "there is no block 2; this model has blocks 0 to 1"),
        ({"layers": []}, "name at least one block"),
        ({"positions": [6]}, "there is no position 6 in a prompt of 6 tokens"),
        ({"positions": [5, -1]}, "each of them once"),
        ({"sites": "h_post"}, r"write \['h_post'\]"),
        ({"sites": []}, "name at least one site"),
        ({"sites": ["h_post", "h_post"]}, "each of them once"),
        ({"sites": ["h_pst"]}, "no site 'h_pst'.*valid: .*mixer.h_post.*or 'state'"),
        ({"sites": ["mlp_out"]}, "no site 'mlp_out'"),
        ({"sites": ["h+mixer.h"]}, "names one site twice"),
        ({"metric": "probability"}, "metric 'probability'; did you mean 'prob'"),
        ({"answer": 40}, "answer 40 is not a token id of this model: they go from 0 to 39"),
        ({"answer": "Paris"}, "answer, a token id, must be an integer, not 'Paris'"),
        ({"seed": "x"}, "seed must be an integer"),
        ({"noise": "loud"}, "changes nothing; give a positive number"),
        ({"positions": 3}, "positions is a list of integers"),
        ({"layers": ["a"]}, "each of layers must be an integer, not 'a'"),
        ({"answer": (1, 2)}, "only metric 'logit_diff' takes a pair"),
        ({"answer": (1, 1), "metric": "logit_diff"}, "both token 1"),
    ],
)
def test_wrong_arguments_are_usage_errors(model: LanguageModel, options: dict[str, Any], message: str) -> None:
    given = ({"subject": (1, 3)} if options and "subject" not in options else {}) | options
    with pytest.raises(UsageError, match=message):
        causal_trace(model, tokens(1, T)[0], **given)


def test_wrong_prompts_are_refused(model: LanguageModel) -> None:
    clean = tokens(1, T)[0]
    other = clean.clone()
    other[2] = (other[2] + 1) % 40
    for bad, message in (
        (clean[:-1], "the clean prompt has 6 tokens, the corrupted one 5"),
        (clean, "equals the clean one: there is nothing to restore"),
        (other.float(), "corrupted: tokens must be integers"),
    ):
        with pytest.raises(UsageError, match=message):
            causal_trace(model, clean, bad)
    with pytest.raises(UsageError, match="give token ids"):
        causal_trace(model, "Mary", subject=(1, 2))
    with pytest.raises(UsageError, match="take one row of the batch"):
        causal_trace(model, clean[None], subject=(1, 2))
    with pytest.raises(UsageError, match="not both"):
        causal_trace(model, clean, other, noise=0.1)
    with pytest.raises(UsageError, match=r"differ at position 2, outside of the subject \(3, 5\)"):
        causal_trace(model, clean, other, subject=(3, 5))
    with pytest.raises(InputError, match="token id 40 is outside the vocabulary"):
        causal_trace(model, clean.clone().fill_(40), other)
    assert causal_trace(model, clean, other, subject=(1, 3)).schema.metadata[b"subject"] == b"1:3"
    assert causal_trace(model, clean, other).schema.metadata[b"subject"] == b"2:3"


def test_a_site_that_only_other_blocks_have_says_which() -> None:
    model = nano("moe_mamba")  # Mamba in block 0, a mixture of experts in block 1
    with pytest.raises(UsageError, match="none of the blocks 1 has it; blocks 0 do"):
        causal_trace(model, tokens(1, T)[0], subject=(1, 3), sites=["h_post"], layers=[1])
    hyena = nano("hyena")
    with pytest.raises(UsageError, match="no site 'h_post'.*mixer.conv_state.*mixer.long_conv_out"):
        causal_trace(hyena, tokens(1, T)[0], subject=(1, 3), sites=["h_post"])
    with pytest.raises(UsageError, match="site 'mixer.filter' cannot be restored"):
        causal_trace(hyena, tokens(1, T)[0], subject=(1, 3), sites=["filter"])


@torch.no_grad()
def test_scores_that_are_not_finite_are_no_result() -> None:
    model = nano("mamba")
    model.blocks[1].mixer.out_proj.weight.fill_(math.nan)
    with pytest.raises(InputError, match="the clean run's logits are not finite"):
        causal_trace(model, tokens(1, T)[0], subject=(1, 3))


@torch.no_grad()
def test_noise_is_three_standard_deviations_of_the_subjects_embeddings(model: LanguageModel) -> None:
    prompts, subjects = [tokens(1, n, seed=n)[0] for n in (5, 7)], [(1, 2), (3, 6)]
    table = model.embedding.weight.numpy()
    entries = np.concatenate([table[p[a:b].numpy()].ravel() for p, (a, b) in zip(prompts, subjects, strict=True)])
    assert subject_noise(model, prompts, subjects) == pytest.approx(3 * np.std(entries, ddof=1), rel=1e-12)
    traced = causal_trace(model, prompts[1], subject=(3, 6), samples=2, sites=["resid_post"], layers=[0])
    own = 3 * np.std(table[prompts[1][3:6].numpy()], ddof=1)
    assert float(traced.schema.metadata[b"noise"]) == pytest.approx(own, rel=1e-12)
    with pytest.raises(UsageError, match="give one span for each prompt"):
        subject_noise(model, prompts, subjects[:1])


def test_the_same_seed_gives_the_same_table(model: LanguageModel) -> None:
    clean = tokens(1, T)[0]
    first, again = (causal_trace(model, clean, subject=(1, 3), samples=2) for _ in range(2))
    assert first.equals(again, check_metadata=True)
    other = causal_trace(model, clean, subject=(1, 3), samples=2, seed=2)
    assert other["effect"].to_pylist() != first["effect"].to_pylist()
