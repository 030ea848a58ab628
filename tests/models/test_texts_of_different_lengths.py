"""Captures and edits of texts that end at different times: a batch shows and does what each text alone does."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from model_zoo import nano, tokens
from mplat.core.errors import UsageError
from mplat.models import Add, Edit, LanguageModel, Replace, Scale, generate

close = {"rtol": 0.0, "atol": 1e-10}
LENGTHS = (5, 3, 8)
NEW = 6


@pytest.fixture(params=["mamba", "mamba2", "hyena"])
def model(request: pytest.FixtureRequest) -> LanguageModel:
    """Its end-of-text is the third new token of the first prompt, which therefore ends before the others."""
    model = nano(request.param)
    model.config = dataclasses.replace(model.config, eos_token_id=None)
    third = generate(model, prompts(), max_new_tokens=NEW)[0].tokens[2]
    model.config = dataclasses.replace(model.config, eos_token_id=third)
    return model


def prompts() -> list[list[int]]:
    return [tokens(1, n, seed=n)[0].tolist() for n in LENGTHS]


def test_a_capture_around_generate_holds_every_row_and_marks_its_end(model: LanguageModel) -> None:
    whole, some = ("blocks.0.mixer_out", "logits"), "blocks.1.mixer_out@[0,-1,9]"
    with model.capture(*whole, some) as acts:
        results = generate(model, prompts(), max_new_tokens=NEW)
    assert len({r.stop_reason for r in results}) == 2
    for i, (prompt, result) in enumerate(zip(prompts(), results, strict=True)):
        text = [*prompt, *result.tokens]
        n = len(text) if result.stop_reason == "eos" else len(text) - 1  # the last new token is not fed back
        assert int(acts.lengths[i]) == n and acts.mask[i].tolist() == [j < n for j in range(acts.mask.shape[1])]
        with torch.no_grad(), model.capture(*whole, "blocks.1.mixer_out") as oracle:
            model(torch.tensor([text[:n]]))
        for name in whole:
            torch.testing.assert_close(acts[name][i, :n], oracle[name][0], **close)
            assert bool(acts[name][i, n:].isnan().all())
        wanted = [0, len(prompt) - 1, 9]
        assert acts.present(some)[i].tolist() == [p < n for p in wanted]
        for column, position in enumerate(wanted):
            if position < n:
                torch.testing.assert_close(acts[some][i, column], oracle["blocks.1.mixer_out"][0, position], **close)
            else:
                assert bool(acts[some][i, column].isnan().all())


def test_of_several_generations_the_last_is_kept_and_a_state_is_continued(model: LanguageModel) -> None:
    first, *others = prompts()
    with model.capture("embed") as acts:
        generate(model, [first], max_new_tokens=2)
        generate(model, others, max_new_tokens=2)
    assert acts["embed"].shape[0] == 2 and acts.lengths.tolist() == [4, 9]
    with torch.no_grad(), model.capture("embed", "blocks.1.mixer_out") as acts:
        _, state = model(torch.tensor([first]), return_state=True)
        new = generate(model, others, max_new_tokens=2, state=state)
    for i, other in enumerate(others):
        text = torch.tensor([[*first, *other, *new[i].tokens[:-1]]])
        with torch.no_grad(), model.capture("blocks.1.mixer_out") as oracle:
            model(text)
        n = text.shape[1]
        assert int(acts.lengths[i]) >= n
        torch.testing.assert_close(acts["blocks.1.mixer_out"][i, :n], oracle["blocks.1.mixer_out"][0], **close)


@torch.no_grad()
def test_rows_that_leave_a_batch_by_hand_keep_their_place(model: LanguageModel) -> None:
    text = tokens(3, 6)
    with model.capture("blocks.1.mixer_out") as acts:
        _, state = model(text[:, :4], return_state=True)
        _, state = model(text[[2, 0], 4:5], state=state.rows([2, 0]), rows=[2, 0], return_state=True)
        model(text[[2], 5:], state=state.rows([0]), rows=[2])
    with model.capture("blocks.1.mixer_out") as oracle:
        model(text)
    assert acts.lengths.tolist() == [5, 4, 6]
    for i, n in enumerate([5, 4, 6]):
        torch.testing.assert_close(acts["blocks.1.mixer_out"][i, :n], oracle["blocks.1.mixer_out"][i, :n], **close)
    with pytest.raises(UsageError, match="say with rows="), model.capture("embed"):
        _, state = model(text[:, :4], return_state=True)
        model(text[:2, 4:], state=state.rows([0, 1]))
    with pytest.raises(UsageError, match="rows must name"):
        model(text, rows=[0, 1])


def test_an_edit_with_an_entry_for_each_row_follows_its_row(model: LanguageModel) -> None:
    own = torch.randn(3, 1, 24, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with model.edit(Add("blocks.0.mixer_out", own)):
        together = model.generate(prompts(), max_new_tokens=NEW)
    for prompt, value, expected in zip(prompts(), own, together, strict=True):
        with model.edit(Add("blocks.0.mixer_out", value)):
            assert model.generate([prompt], max_new_tokens=NEW) == [expected]


@pytest.mark.parametrize("site", ["blocks.0.mixer_out", "blocks.0.mixer.h", "blocks.0.mixer.h_post", "logits",
                                  "blocks.0.mixer.conv_state", "blocks.0.mixer.delta"])  # fmt: skip
@pytest.mark.parametrize("arch", ["mamba", "mamba2"])
@torch.no_grad()
def test_a_position_named_twice_is_edited_once(site: str, arch: str) -> None:
    model, text = nano(arch), tokens(2, 6)
    mask = torch.tensor([[True] * 6, [True] * 4 + [False] * 2])
    for twice, once in [
        (Scale(site, 3.0, positions=[5, -1, 1, 1]), Scale(site, 3.0, positions=[5, 1])),
        (Scale(site, 3.0, channels=[1, 1, -3]), Scale(site, 3.0, channels=[1, -3])),
    ]:
        with model.edit(once):
            expected = model(text)
        with model.edit(twice):
            assert torch.equal(model(text), expected)
        with model.edit(twice), model.capture(site, f"{site}@[5,-1]") as acts:
            model(text)
        shown = acts[f"{site}@[5,-1]"]
        assert torch.equal(shown[:, 0], shown[:, 1]) and torch.equal(shown[:, 0], acts[site][:, 5])
    # in the shorter row, -1 is 3: the same list names other positions twice there
    with model.edit(Add(site, 0.5, positions=[3, -1])):
        both = model(text, mask)
    for row, width, positions in ((0, 6, [3, 5]), (1, 4, [3])):
        with model.edit(Add(site, 0.5, positions=positions)):
            torch.testing.assert_close(both[row, :width], model(text[row : row + 1, :width])[0], **close)
    # of two values for one position the first one counts
    width = next(s.shape[2:] for s in model.sites() if s.name == site)
    values = torch.stack([torch.full(width, 0.25), torch.full(width, 9.0)])
    with model.edit(Replace(site, values, positions=[5, -1])):
        first = model(text)
    with model.edit(Replace(site, 0.25, positions=[5])):
        assert torch.equal(first, model(text))


def outcome(model: LanguageModel, watch: str | Edit, rows: list[list[int]]) -> bool:
    """Whether one forward pass over `rows` is refused."""
    from mplat.models.decoding.prefill import pad

    block = model.capture(watch) if isinstance(watch, str) else model.edit(watch)
    try:
        with torch.no_grad(), block:
            model(*pad(rows))
    except UsageError:
        return True
    return False


@pytest.mark.parametrize("site", ["embed", "blocks.0.mixer.h", "blocks.1.mixer.B", "blocks.1.mixer.conv_state"])
@pytest.mark.parametrize(("positions", "refused"), [([6], True), ([6, 1], False), ([-5], True), ([-5, 0], False)])
def test_a_position_that_some_rows_lack_is_the_same_alone_and_in_a_batch(
    site: str, positions: list[int], refused: bool
) -> None:
    model, (_, short, long) = nano("mamba"), prompts()
    for watch in (f"{site}@[{','.join(map(str, positions))}]", Add(site, 0.5, positions=positions)):
        assert outcome(model, watch, [short]) == outcome(model, watch, [short, long]) == refused
        assert not outcome(model, watch, [long])
    if not refused:
        with torch.no_grad(), model.capture(f"{site}@[{','.join(map(str, positions))}]") as acts:
            model(torch.tensor([short]))
        (value,) = acts.values()
        assert value.shape[:2] == (1, 2) and bool(value[:, 0].isnan().all()) and not bool(value[:, 1].isnan().any())


def test_a_decode_edit_is_content_with_texts_that_end_at_their_first_token() -> None:
    model = nano("mamba")
    model.config = dataclasses.replace(model.config, eos_token_id=None)
    (first,) = model.generate([[1, 2, 3]], max_new_tokens=1)
    model.config = dataclasses.replace(model.config, eos_token_id=first[0])
    for edit in (Scale("blocks.0.mixer_out", 2.0, phase="decode"), Scale("embed", 2.0, phase="decode", positions=[4])):
        with model.edit(edit):
            assert model.generate([[1, 2, 3]], max_new_tokens=4) == [[]]
            assert model.generate([[1, 2, 3], [1, 2, 3]], max_new_tokens=4) == [[], []]
    with model.capture("blocks.0.mixer.h@[5]") as acts:
        model.generate([[1, 2, 3]], max_new_tokens=4)
    assert acts["blocks.0.mixer.h"].shape == (1, 1, 48, 5) and bool(acts["blocks.0.mixer.h"].isnan().all())


@pytest.mark.parametrize(
    ("positions", "phase", "told"),
    [
        ([1], "decode", "3 to 6 at most"), ([3], "prefill", "reads 0 to 2"), ([7], "both", "ends at 6"),
        ([-4], "both", "starts at 0"),
    ],
)  # fmt: skip
def test_positions_that_cannot_come_are_refused_before_generating(
    positions: list[int], phase: str, told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = nano("mamba")
    monkeypatch.setattr(model, "forward", None)  # nothing is computed
    with (
        pytest.raises(UsageError, match=f"prompt 0 of 3 tokens.*{told}"),
        model.edit(Scale("embed", 2.0, phase=phase, positions=positions)),
    ):
        model.generate([[1, 2, 3], [5] * 9], max_new_tokens=4)


def test_captures_are_detached_unless_gradients_are_asked_for() -> None:
    model, text = nano("mamba"), tokens(1, 4)
    with model.capture("blocks.0.mixer_out", "blocks.1.mixer.h@[2]") as acts:
        model(text)
    assert not any(value.requires_grad for value in acts.values())
    with model.capture("blocks.0.mixer_out", gradients=True) as acts:
        logits = model(text)
    (slope,) = torch.autograd.grad(logits.sum(), [acts["blocks.0.mixer_out"]])
    assert bool(slope.abs().sum() > 0)
