"""Prompts that share beginnings: read once, with the results of reading each alone."""

from __future__ import annotations

import pytest
import torch
from model_zoo import STATE_SPACE, nano, tokens
from mplat.core.errors import UsageError
from mplat.models import Add, LanguageModel, Replace, Scale, generate
from mplat.models.decoding.prefill import Beginning, beginnings, read
from mplat.models.state import ModelState

BASE = tokens(1, 200, seed=1)[0].tolist()


def shared_rows() -> list[list[int]]:
    """Two contexts of different lengths behind one beginning, one stranger, one prompt twice."""
    first, second = BASE[:90] + tokens(1, 30, seed=2)[0].tolist(), BASE[:90] + tokens(1, 45, seed=3)[0].tolist()
    rows = [first + tokens(1, n, seed=10 + n)[0].tolist() for n in (1, 4, 9)]
    rows += [second + tokens(1, n, seed=20 + n)[0].tolist() for n in (2, 7)]
    return [rows[3], rows[0], tokens(1, 33, seed=5)[0].tolist(), *rows[1:3], rows[4], rows[1]]


@pytest.fixture(params=STATE_SPACE)
def model(request: pytest.FixtureRequest) -> LanguageModel:
    return nano(request.param)


@pytest.fixture
def tokens_read(model: LanguageModel, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How many tokens each forward pass reads, padding included."""
    seen: list[int] = []
    forward = type(model).forward

    def counting(self, tokens, *args, **kwargs):
        seen.append(tokens.numel())
        return forward(self, tokens, *args, **kwargs)

    monkeypatch.setattr(type(model), "forward", counting)
    return seen


def assert_close(found: tuple[torch.Tensor, ModelState], expected: tuple[torch.Tensor, ModelState]) -> None:
    torch.testing.assert_close(found[0], expected[0], rtol=1e-10, atol=1e-12)
    assert found[1].position.tolist() == expected[1].position.tolist()
    for ours, theirs in zip(found[1].layers, expected[1].layers, strict=True):
        for name in theirs:
            torch.testing.assert_close(ours[name], theirs[name], rtol=1e-10, atol=1e-12)


def test_sharing_changes_nothing_but_the_work(model: LanguageModel, tokens_read: list[int]) -> None:
    rows = shared_rows()
    expected = read(model, rows, share=False)
    assert len(tokens_read) == 1
    before = sum(tokens_read)
    assert_close(read(model, rows), expected)
    assert len(tokens_read) > 2 and sum(tokens_read) - before < 0.7 * before


def test_scores_are_those_of_each_prompt_alone(model: LanguageModel) -> None:
    rows = shared_rows()
    scores, _ = read(model, rows)
    for row, score in zip(rows, scores, strict=True):
        torch.testing.assert_close(score, model(torch.tensor([row]))[0, -1].detach(), rtol=1e-10, atol=1e-12)


def test_64_questions_behind_one_prefix_read_it_once(model: LanguageModel, tokens_read: list[int]) -> None:
    rows = [BASE + tokens(1, 8, seed=i)[0].tolist() for i in range(64)]
    read(model, rows)
    # the questions' own common beginnings are chance, at most a token or two
    assert sum(tokens_read) <= 200 + 64 * 8


@pytest.mark.parametrize(
    "edit",
    [
        Scale("blocks.0.mixer_out", 3.0),
        Scale("blocks.1.mixer_out@[3, 50]", 3.0),
        Add("blocks.0.resid_post@[-1]", 0.7),
        Add("blocks.1.mixer.delta@[-12, -2]", 0.7),
        Replace("blocks.0.mixer.h@[20, -3]", 0.1),
        Scale("logits", 2.0),
        Add("blocks.0.mixer_out", torch.linspace(-1, 1, 150).double()[:, None]),
    ],
    ids=str,
)
def test_edits_act_as_without_sharing(model: LanguageModel, edit) -> None:
    rows = shared_rows()
    with model.edit(edit):
        expected = read(model, rows, share=False)
    with model.edit(edit):
        assert_close(read(model, rows), expected)


def test_nothing_is_shared_where_rows_are_told_apart(model: LanguageModel, tokens_read: list[int]) -> None:
    rows = shared_rows()
    own = torch.arange(7.0).double()[:, None, None].expand(7, 150, 1)
    with model.edit(Add("blocks.0.mixer_out", own)):
        read(model, rows)
    assert len(tokens_read) == 1
    with model.capture("blocks.0.mixer_out") as acts:
        read(model, rows)
    assert len(tokens_read) == 2 and acts["blocks.0.mixer_out"].shape[:2] == (7, max(map(len, rows)))


def test_one_state_is_continued_by_all(model: LanguageModel) -> None:
    _, state = model(torch.tensor([BASE[:40]]), return_state=True)
    rows = [row[40:] for row in shared_rows() if row[:40] == BASE[:40]]
    expected = read(model, [BASE[:40] + row for row in rows], share=False)
    assert_close(read(model, rows, state), expected)
    assert_close(read(model, rows, state.rows([0] * len(rows))), expected)
    with pytest.raises(UsageError, match="2 rows does not fit"):
        read(model, rows, state.rows([0, 0]))


def test_generation_forks_one_prompt_into_several_continuations(model: LanguageModel, tokens_read: list[int]) -> None:
    drawn = generate(model, [BASE] * 5, max_new_tokens=4, temperature=3.0, seed=3)
    prefill = sum(n for n in tokens_read if n > 5) + tokens_read.count(5)
    assert prefill <= 200 + 5 * 5 and len({g.tokens for g in drawn}) > 1
    assert drawn == generate(model, [BASE] * 5, max_new_tokens=4, temperature=3.0, seed=3, share_prefix=False)


def test_last_only_is_the_last_real_token_on_either_side_of_padding(model: LanguageModel) -> None:
    rows = tokens(2, 9, seed=4)
    left, right = torch.ones(2, 9, dtype=torch.bool), torch.ones(2, 9, dtype=torch.bool)
    left[1, :4], right[1, 5:] = False, False
    for mask, at in ((left, [8, 8]), (right, [8, 4])):
        whole = model(rows, mask)
        torch.testing.assert_close(model(rows, mask, last_only=True)[:, 0], whole[[0, 1], at], rtol=1e-12, atol=1e-12)


def test_only_some_columns_have_logits_on_either_side_of_padding(model: LanguageModel) -> None:
    rows = tokens(2, 9, seed=4)
    left = torch.ones(2, 9, dtype=torch.bool)
    left[1, :4] = False
    columns = torch.tensor([[0, 8, 3], [4, 8, 6]])
    for mask in (None, left, left.flip(1)):
        for edits in ([], [Scale("logits", 2.0)], [Scale("final_norm", 0.5, positions=[1])]):
            with model.edit(*edits):
                whole = model(rows, mask)
                some = model(rows, mask, only=columns.int())
            real = torch.ones(2, 9, dtype=torch.bool) if mask is None else mask
            expected, kept = whole[torch.arange(2)[:, None], columns], real.gather(1, columns)
            torch.testing.assert_close(some[kept], expected[kept], rtol=1e-12, atol=1e-12)
    for wrong in (torch.tensor([[0], [9]]), torch.tensor([[-1], [0]]), torch.zeros(1, 1, dtype=torch.long), [[0], [1]]):
        with pytest.raises(UsageError, match="only names columns"):
            model(rows, only=wrong)
    with pytest.raises(UsageError, match="one of them"):
        model(rows, only=columns, last_only=True)


def test_beginnings() -> None:
    base = list(range(100))
    rows = [[*base, 7], [*base, 8, 9], [5] * 30, [*base, 7]]
    assert beginnings(rows, [0] * 4) == [Beginning(100, (0, 3, 1))]
    assert beginnings(rows, [0, 1, 2, 3]) == []  # they continue different things
    assert beginnings([base, base], [0, 0]) == [Beginning(99, (0, 1))]
    assert beginnings([base, base], [0, 0], leave=10) == [Beginning(90, (0, 1))]
    assert beginnings([[1, 2, 3], [1, 2, 4]], [0, 0]) == []  # too little to gain
    assert beginnings([base], [0]) == []
    assert beginnings([[0, 1, 50], *rows], [0] * 5) == [Beginning(100, (1, 4, 2))]  # two tokens in common are chance
    assert beginnings([base[:3], base], [0, 0], leave=5) == []
