"""Generation: the same text alone and in a batch, with edits as in a full run, seeded, ended by stop or length."""

from __future__ import annotations

import pytest
import torch
from model_zoo import STATE_SPACE, nano, tokens
from mplat.core.errors import InputError, UsageError
from mplat.datasets.tokenizer import SHIPPED
from mplat.models import Add, LanguageModel, ModelState, Scale, generate
from transformers import PreTrainedTokenizerFast


@pytest.fixture(params=STATE_SPACE)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    model = nano(request.param)
    model.config = model.config.__class__(**{**vars(model.config), "eos_token_id": None})
    return model


@pytest.fixture(params=STATE_SPACE)
def speaking(request: pytest.FixtureRequest) -> LanguageModel:
    model = nano(request.param, vocab_size=1024, dtype=torch.float32)
    model.tokenizer = PreTrainedTokenizerFast.from_pretrained(SHIPPED)
    return model


@torch.no_grad()
def greedy_by_rerunning(model: LanguageModel, prompt: list[int], n: int) -> list[int]:
    new: list[int] = []
    for _ in range(n):
        new.append(int(model(torch.tensor([prompt + new]))[0, -1].argmax()))
    return new


def test_decoding_equals_rerunning_the_whole_text(model: LanguageModel) -> None:
    prompts = [tokens(1, n, seed=n)[0].tolist() for n in (7, 1, 12, 3)]
    expected = [greedy_by_rerunning(model, p, 6) for p in prompts]
    assert model.generate(prompts, max_new_tokens=6) == expected
    assert [model.generate([p], max_new_tokens=6)[0] for p in prompts] == expected


@pytest.mark.parametrize(
    "edit",
    [
        Scale("blocks.0.mixer_out", 3.0),
        Scale("blocks.1.mixer.delta", 2.0, channels=[1, 4]),
        Scale("blocks.1.mixer.h", 0.7),
        Scale("blocks.0.mixer.h_post", 0.5),
        Scale("blocks.0.mixer.conv_state", 0.5),
        Add("blocks.1.mixer.h_post", 1.0, positions=[2, 5]),
        Add("blocks.0.mixer.B", 1.0, positions=[8]),
    ],
    ids=str,
)
def test_generating_with_an_edit_equals_rerunning_with_it(model: LanguageModel, edit) -> None:
    prompt = tokens(1, 6, seed=1)[0].tolist()
    with model.edit(edit):
        generated = model.generate([prompt, prompt[:4]], max_new_tokens=6)
    for start, result in zip((prompt, prompt[:4]), generated, strict=True):
        text = start + result
        with torch.no_grad(), model.edit(edit):
            again = model(torch.tensor([text]))[0].argmax(-1).tolist()
        assert again[len(start) - 1 : -1] == result


def test_negative_positions_mean_the_end_of_the_prompt(model: LanguageModel) -> None:
    prompt = tokens(1, 6, seed=1)[0].tolist()
    with model.edit(Add("blocks.0.mixer.h_post", 2.0, positions=[-2])):
        relative = model.generate([prompt], max_new_tokens=5)
    with model.edit(Add("blocks.0.mixer.h_post", 2.0, positions=[4])):
        assert model.generate([prompt], max_new_tokens=5) == relative


def test_a_prefix_read_once_can_be_forked(model: LanguageModel) -> None:
    prefix = tokens(1, 9)
    endings = [[3, 4], [5], [6, 7, 8]]
    with torch.no_grad():
        _, state = model(prefix, return_state=True)
    forked = generate(model, endings, max_new_tokens=4, state=state.rows([0, 0, 0]))
    whole = model.generate([prefix[0].tolist() + e for e in endings], max_new_tokens=4)
    assert [list(g.tokens) for g in forked] == whole


def test_what_was_read_is_shown_once_before_anything_is_generated(model: LanguageModel) -> None:
    prompts = [tokens(1, n, seed=n)[0].tolist() for n in (7, 1, 12)]
    seen = []

    def look(scores: torch.Tensor, state: ModelState) -> None:
        seen.append((scores.clone(), state.map(torch.clone)))

    assert [g.tokens for g in generate(model, prompts, max_new_tokens=4, on_read=look)] == [
        g.tokens for g in generate(model, prompts, max_new_tokens=4)
    ]
    ((scores, state),) = seen
    assert state.position.tolist() == [7, 1, 12]
    for i, prompt in enumerate(prompts):
        after = torch.tensor([[5]])
        expected = model(torch.tensor([prompt + [5]]))[0, -2:]
        assert torch.allclose(scores[i], expected[0], atol=1e-9)
        assert torch.allclose(model(after, state=state.rows([i]))[0, -1], expected[1], atol=1e-9)


def test_captures_span_prompt_and_new_tokens(model: LanguageModel) -> None:
    prompt = tokens(1, 5)[0].tolist()
    with model.capture("blocks.0.mixer_out", "blocks.1.mixer.h@[-1,6]") as acts:
        (new,) = model.generate([prompt], max_new_tokens=4)
    with model.capture("blocks.0.mixer_out", "blocks.1.mixer.h@[4,6]") as whole:
        model(torch.tensor([prompt + new]))
    assert acts["blocks.0.mixer_out"].shape[1] == 5 + 3  # the last new token is not fed back
    torch.testing.assert_close(acts["blocks.0.mixer_out"], whole["blocks.0.mixer_out"][:, :8], rtol=0, atol=1e-10)
    torch.testing.assert_close(acts["blocks.1.mixer.h"], whole["blocks.1.mixer.h"], rtol=0, atol=1e-10)


def test_sampling_is_seeded_and_independent_of_the_batch(model: LanguageModel) -> None:
    prompts = [tokens(1, 4, seed=s)[0].tolist() for s in range(3)]
    a = model.generate(prompts, max_new_tokens=8, temperature=40.0, seed=3)
    assert a == model.generate(prompts, max_new_tokens=8, temperature=40.0, seed=3)
    assert a[0] == model.generate(prompts[:1], max_new_tokens=8, temperature=40.0, seed=3)[0]
    assert a != model.generate(prompts, max_new_tokens=8, temperature=40.0, seed=4)


def test_stop_strings_end_the_text_and_are_left_out(speaking: LanguageModel) -> None:
    (free,) = speaking.generate(["A test"], max_new_tokens=12, stop=["\x00never"])
    assert len(free) >= 3
    stop = free[2]
    (cut,) = speaking.generate(["A test"], max_new_tokens=12, stop=[stop, "\x00"])
    assert cut == free[: free.index(stop)]
    results = generate(speaking, ["A test", "Another one"], max_new_tokens=3, stop=["\x00never"])
    assert {r.stop_reason for r in results} <= {"length", "eos"}


def test_scores_that_are_not_finite_are_told_not_hidden() -> None:
    model = nano("mamba")
    with torch.no_grad():
        model.backbone.norm_f.weight[0] = float("nan")
    assert generate(model, [[1, 2]], max_new_tokens=2)[0].stop_reason == "nonfinite"
    with pytest.raises(InputError, match="not finite"):
        model.generate([[1, 2]])


def test_wrong_prompts() -> None:
    model = nano("mamba")
    with pytest.raises(InputError, match="no tokenizer"):
        model.generate(["text"])
    with pytest.raises(InputError, match="prompt 1 is empty"):
        model.generate([[1], []])
    with pytest.raises(UsageError, match="lists"):
        model.generate("text")
    with pytest.raises(UsageError, match="max_new_tokens"):
        model.generate([[1]], max_new_tokens=0)
    with pytest.raises(UsageError, match="stop string is empty"):
        model.generate([[1]], stop=[""])
    assert model.generate([]) == []
