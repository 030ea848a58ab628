"""Decoding ahead in one compiled loop chooses the tokens that the model chooses step by step, and leaves its states."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from mplat.core.errors import InputError
from mplat.models import LanguageModel, ModelConfig, Scale, build, generate
from mplat.models.decoding.greedy import GreedyDecoder, ahead, faster_in_loops
from mplat.models.state import ModelState

SHAPES: dict[str, dict[str, Any]] = {
    "tiny": {"vocab_size": 512, "d_model": 64, "n_layers": 3},
    "odd widths": {"vocab_size": 101, "d_model": 48, "n_layers": 2, "state_size": 5, "dt_rank": 7, "conv_kernel": 3},
    "own head, no bias": {
        "vocab_size": 40, "d_model": 16, "n_layers": 1, "state_size": 33, "conv_kernel": 2, "tie_embeddings": False,
        "use_conv_bias": False, "expand": 3,
    },
}  # fmt: skip


def lively(shape: str, dtype: torch.dtype = torch.float64) -> LanguageModel:
    """A model whose greedy text is not one repeated token."""
    values = {"eos_token_id": None} | SHAPES[shape]
    return build(ModelConfig("mamba", **values), seed=5, dtype=dtype, embedding_std=0.7).eval()


@torch.no_grad()
def step_by_step(
    model: LanguageModel, state: ModelState, last: list[int], n: int
) -> tuple[list[list[int]], ModelState]:
    found = []
    for _ in range(n):
        logits, state = model(torch.tensor(last)[:, None], state=state, return_state=True)
        last = logits[:, 0].argmax(-1).tolist()
        found.append(last)
    return found, state


def states_of(decoder: GreedyDecoder) -> tuple[torch.Tensor, torch.Tensor]:
    return decoder._conv.movedim(-1, 1).flatten(0, 1), decoder._h.movedim(-1, 1).flatten(0, 1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("rows", [1, 8, 19])
@torch.no_grad()
def test_tokens_and_states_are_those_of_the_model(shape: str, rows: int) -> None:
    model = lively(shape)
    prompts = torch.randint(model.config.vocab_size, (rows, 6), generator=torch.Generator().manual_seed(rows))
    logits, state = model(prompts, return_state=True, last_only=True)
    last = logits[:, 0].argmax(-1).tolist()
    decoder = ahead(model, state)
    assert decoder is not None
    found = decoder.tokens(last, 5)
    found += decoder.tokens([t or 0 for t in found[-1]], 2)
    expected, end = step_by_step(model, state, last, 7)
    assert found == expected
    assert rows == 1 or len({token for step in expected for token in step}) > 2
    conv, h = states_of(decoder)
    for layer, values in enumerate(end.layers):
        torch.testing.assert_close(conv[:rows, layer], values["conv"].flatten(1), rtol=0, atol=1e-13)
        torch.testing.assert_close(h[:rows, layer], values["h"].flatten(1), rtol=0, atol=1e-13)


@torch.no_grad()
def test_rows_may_leave_at_any_time() -> None:
    model = lively("tiny")
    prompts = torch.randint(512, (21, 6), generator=torch.Generator().manual_seed(0))
    logits, state = model(prompts, return_state=True, last_only=True)
    last = logits[:, 0].argmax(-1).tolist()
    expected, _ = step_by_step(model, state, last, 6)
    decoder = ahead(model, state)
    assert decoder is not None
    alive = list(range(21))
    for step, leave in enumerate(([0, 20], [3], list(range(5, 18)), [], [2], [])):
        (found,) = decoder.tokens([last[i] for i in alive], 1)
        assert found == [expected[step][i] for i in alive]
        last = expected[step]
        stay = [j for j, i in enumerate(alive) if i not in leave]
        decoder.keep(stay)
        alive = [alive[j] for j in stay]


@pytest.mark.parametrize("new", [1, 2, 5, 30])
def test_generation_is_the_same_with_and_without(new: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = lively("tiny")
    prompts = [torch.randint(512, (n,)).tolist() for n in (3, 9, 1, 30)]
    fast = generate(model, prompts, max_new_tokens=new, stop=())
    monkeypatch.setattr("mplat.models.decoding.generation.faster_in_loops", lambda model, prompts: True)
    assert generate(model, prompts, max_new_tokens=new, stop=()) == fast
    monkeypatch.setattr("mplat.models.decoding.generation.ahead", lambda model, state: None)
    assert generate(model, prompts, max_new_tokens=new, stop=()) == fast
    assert all(len(g.tokens) == new for g in fast)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("continued", [False, True])
@torch.no_grad()
def test_prompts_of_any_lengths_are_read_as_the_model_reads_them(shape: str, continued: bool) -> None:
    model = lively(shape)
    generator = torch.Generator().manual_seed(3)
    lengths = [4, 0, 1, 7, 7, 2, 7, 3, 5, 0, 6]
    rows = [torch.randint(model.config.vocab_size, (n,), generator=generator).tolist() for n in lengths]
    before = torch.randint(model.config.vocab_size, (len(rows), 5), generator=generator)
    state = model(before, return_state=True)[1] if continued else model.zero_state(len(rows))
    decoder = ahead(model, state)
    assert decoder is not None
    decoder.read(rows)
    conv, h = states_of(decoder)
    for i, row in enumerate(rows):
        own = state.rows([i])
        if row:
            own = model(torch.tensor([row]), state=own, return_state=True)[1]
        for layer, values in enumerate(own.layers):
            torch.testing.assert_close(conv[i, layer], values["conv"][0].flatten(), rtol=0, atol=1e-13)
            torch.testing.assert_close(h[i, layer], values["h"][0].flatten(), rtol=0, atol=1e-13)


def test_prompts_are_read_in_the_loops_where_few_lanes_would_be_empty_and_nobody_watches() -> None:
    model = lively("tiny")
    assert faster_in_loops(model, [[1] * 9] * 8) and faster_in_loops(model, [[1] * 9] * 14)
    assert not faster_in_loops(model, [[1] * 9] * 2)
    assert not faster_in_loops(model, [[1] * 9] + [[1]] * 7)
    with model.edit(Scale("blocks.0.mixer_out", 2.0)):
        assert not faster_in_loops(model, [[1] * 9] * 8)
        model(torch.tensor([[1]]))
    with pytest.raises(InputError, match="512 is outside the vocabulary"):
        generate(model, [[1, 2], *[[512, 3]] * 7])


def test_end_of_text_ends_a_row_in_the_middle_of_a_block() -> None:
    model = lively("tiny")
    (free,) = generate(model, [[1, 2, 3]], max_new_tokens=20, stop=())
    end = free.tokens[6]
    model.config = ModelConfig(**{**vars(model.config), "eos_token_id": end})
    (cut,) = generate(model, [[1, 2, 3]], max_new_tokens=20, stop=())
    assert cut.tokens == free.tokens[: free.tokens.index(end)] and cut.stop_reason == "eos"


def test_a_row_whose_scores_are_not_finite_says_so_and_the_others_go_on() -> None:
    model = lively("tiny")
    poison = 7
    with torch.no_grad():
        model.backbone.embeddings.weight[poison] = float("inf")
    model.lm_head = torch.nn.Linear(64, 512, bias=False, dtype=torch.float64).requires_grad_(False)
    ends = generate(model, [[1, 2], [poison, 3], [4]], max_new_tokens=6, stop=())
    assert [g.stop_reason for g in ends] == ["length", "nonfinite", "length"]
    _, state = model(torch.tensor([[1, 2], [3, 4]]), return_state=True)
    decoder = ahead(model, state.detach())
    assert decoder is not None
    steps = decoder.tokens([poison, 5], 3)
    assert [s[0] for s in steps] == [None] * 3 and None not in [s[1] for s in steps]


@torch.no_grad()
def test_it_steps_aside_where_somebody_watches_edits_or_the_model_is_another() -> None:
    model = lively("tiny")
    _, state = model(torch.tensor([[1, 2]]), return_state=True)
    assert ahead(model, state) is not None
    with model.capture("embed"):
        assert ahead(model, state) is None
        model(torch.tensor([[1]]))
    for phase, usable in (("both", False), ("decode", False), ("prefill", True)):
        edit = Scale("blocks.0.mixer_out", 2.0, phase=phase)  # type: ignore[arg-type]
        with model.edit(edit):
            assert (ahead(model, state) is not None) == usable
            model(torch.tensor([[1, 2]]), phase="prefill" if phase == "prefill" else "decode")
    other = build(ModelConfig("mamba2", vocab_size=32, d_model=32, n_layers=1, head_dim=16), 0)
    _, other_state = other(torch.tensor([[1, 2]]), return_state=True)
    assert ahead(other, other_state) is None
    assert ahead(model.to(torch.bfloat16), state) is None
