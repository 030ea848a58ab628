"""An edit with a mask acts on the masked tokens of each row and on no other: as edits of rows of one with positions."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from model_zoo import ARCHITECTURES, STATE_SPACE, nano, tokens
from mplat.core.errors import UsageError
from mplat.models import Add, Edit, Interpolate, LanguageModel, ProjectOut, Replace, Scale, load_edits, save_edits
from mplat.models.decoding.generation import generate
from torch import Tensor

LENGTHS = (9, 5, 7)
WIDTH = 6  # of the masks: shorter and longer than the texts
MASK = torch.tensor([[0, 1, 0, 0, 1, 1], [0, 0, 0, 1, 0, 1], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)


def texts() -> list[Tensor]:
    return [tokens(1, n, seed=n) for n in LENGTHS]


def padded(left: bool) -> tuple[Tensor, Tensor]:
    batch = torch.zeros(len(LENGTHS), max(LENGTHS), dtype=torch.long)
    mask = torch.zeros_like(batch, dtype=torch.bool)
    for i, text in enumerate(texts()):
        part = slice(batch.shape[1] - text.shape[1], None) if left else slice(0, text.shape[1])
        batch[i, part], mask[i, part] = text[0], True
    return batch, mask


def positions_of(row: int, beyond: bool, length: int) -> list[int]:
    """The tokens of a text that the mask names, by a loop."""
    return [t for t in range(length) if (bool(MASK[row, t]) if t < WIDTH else beyond)]


def edited_alone(model: LanguageModel, make: Callable[..., Edit], row: int, beyond: bool) -> Tensor:
    text = texts()[row]
    at = positions_of(row, beyond, text.shape[1])
    if not at:
        return model(text)[0]
    with model.edit(make(positions=at)):
        return model(text)[0]


def kinds(model: LanguageModel, site: str) -> list[Callable[..., Edit]]:
    shape = next(s.shape for s in model.sites() if s.name == site)[2:]
    direction = torch.linspace(-1, 1, int(torch.tensor(shape).prod()), dtype=torch.float64).view(*shape) + 0.01
    return [
        lambda **options: Scale(site, 1.7, **options),
        lambda **options: Add(site, direction, **options),
        lambda **options: Replace(site, 0.3, channels=[0, 2] if int(shape[0]) > 2 else [0], **options),
        lambda **options: Interpolate(site, direction, 0.4, **options),
        lambda **options: ProjectOut(site, direction, **options),
    ]


def sites_of(model: LanguageModel) -> list[str]:
    floating = [s for s in model.sites() if not s.constant and s.editable and s.name.startswith("blocks.1.")]
    return ["embed", *(s.name for s in floating), "logits"]


@pytest.mark.parametrize("arch", ARCHITECTURES)
@torch.no_grad()
def test_a_masked_edit_of_a_batch_is_that_of_each_row_at_its_positions(arch: str) -> None:
    model = nano(arch)
    unedited = {left: model(*padded(left)) for left in (True, False)}
    for number, site in enumerate(sites_of(model)):
        make = kinds(model, site)[0 if "router" in site or "gate_weights" in site else number % 5]
        # each kind with and without what comes behind the mask, and padded on either side, over the sites
        beyond, left = number // 5 % 2 == 0, number % 2 == 0
        batch, mask = padded(left)
        with model.edit(make(where=MASK, beyond=beyond)):
            logits = model(batch, mask)
        plain = unedited[left]
        for row in range(len(LENGTHS)):
            expected = edited_alone(model, make, row, beyond)
            torch.testing.assert_close(logits[row][mask[row]], expected, rtol=0, atol=1e-10, msg=site)
            at = positions_of(row, beyond, LENGTHS[row])
            first = at[0] if at else LENGTHS[row]
            assert torch.equal(logits[row][mask[row]][:first], plain[row][mask[row]][:first]), site


@pytest.mark.parametrize("arch", STATE_SPACE)
@pytest.mark.parametrize("site", ["embed", "blocks.0.mixer.delta", "blocks.1.mixer.h", "blocks.0.mixer.conv_state"])
@torch.no_grad()
def test_pieces_steps_and_rows_that_leave_see_the_same_mask(arch: str, site: str) -> None:
    model = nano(arch)
    batch = tokens(3, 9)
    for beyond in (False, True):
        with model.edit(Scale(site, 1.7, where=MASK, beyond=beyond)):
            whole = model(batch)
            first, state = model(batch[:, :4], return_state=True)
            kept = torch.tensor([2, 0])
            state = state.rows(kept)
            pieces = [first[kept]]
            for step in range(4, 9):
                logits, state = model(batch[kept, step : step + 1], state=state, return_state=True, rows=kept)
                pieces.append(logits)
        torch.testing.assert_close(torch.cat(pieces, 1), whole[kept], rtol=0, atol=1e-11)


@pytest.mark.parametrize("arch", ARCHITECTURES)
@torch.no_grad()
def test_generating_with_masks_is_reading_the_whole_text_with_them(arch: str) -> None:
    model = nano(arch)
    site = "blocks.1.mixer_out"
    prompts = [text[0].tolist() for text in texts()]
    generated = torch.tensor([[t >= n for t in range(max(LENGTHS))] for n in LENGTHS])
    for where, beyond in ((MASK, False), (MASK, True), (generated, True), (~generated, False), (MASK[:1], True)):
        with model.edit(Scale(site, 3.0, where=where, beyond=beyond)):
            out = generate(model, prompts, max_new_tokens=5, stop=())
        for row, (prompt, found) in enumerate(zip(prompts, out, strict=True)):
            text = torch.tensor([[*prompt, *found.tokens]])
            own = where[min(row, len(where) - 1)]
            at = [t for t in range(text.shape[1]) if (bool(own[t]) if t < len(own) else beyond)]
            if at:
                with model.edit(Scale(site, 3.0, positions=at)):
                    scores = model(text)
            else:
                scores = model(text)
            chosen = scores[0, len(prompt) - 1 : len(prompt) - 1 + len(found.tokens)].argmax(-1)
            assert chosen.tolist() == list(found.tokens), (row, beyond)


@torch.no_grad()
def test_a_shared_beginning_is_read_once_only_under_one_mask_for_all() -> None:
    model = nano("mamba")
    begin = tokens(1, 80)[0].tolist()
    prompts = [[*begin, *tokens(1, 3, seed=i)[0].tolist()] for i in range(3)]
    one = torch.arange(81)[None] % 3 == 0
    reads: list[int] = []
    hook = model.blocks[0].register_forward_hook(lambda _m, inputs, _out: reads.append(inputs[0].numel()))
    results = []
    for where in (one, one.expand(3, -1)):
        reads.clear()
        with model.edit(Add("embed", 0.5, where=where)):
            results.append(generate(model, prompts, max_new_tokens=3, stop=()))
        results.append([reads[0]])
    hook.remove()
    assert results[0] == results[2]
    assert results[1][0] * 3 < results[3][0] * 1.2, "the beginning was not shared, or shared under masks of rows"


@torch.no_grad()
def test_an_everywhere_mask_is_no_mask_and_rows_without_entries_keep_their_bits() -> None:
    model = nano("mamba2", dtype=torch.float32)
    batch = tokens(3, 8)
    plain = model(batch)
    everywhere = torch.ones(3, 8, dtype=torch.bool)
    for site in ("blocks.0.mixer.x", "blocks.0.mixer.h"):
        with model.edit(Scale(site, 0.5)):
            expected = model(batch)
        with model.edit(Scale(site, 0.5, where=everywhere)):
            assert torch.equal(model(batch), expected)
        with model.edit(Scale(site, 0.5, where=MASK)):
            found = model(batch)
        assert torch.equal(found[2], plain[2]) and not torch.equal(found[0], plain[0])


@torch.no_grad()
def test_what_is_refused() -> None:
    some = torch.tensor([True, False])
    for make, text in [
        (lambda: Scale("embed", 2.0, where=some, positions=[0]), "exclude each other"),
        (lambda: Scale("embed@[0]", 2.0, where=some), "exclude each other"),
        (lambda: Scale("embed", 2.0, where=~some & some), "never acts"),
        (lambda: Scale("embed", 2.0, where=some.float()), "bool tensor"),
        (lambda: Scale("embed", 2.0, where=some[:, None, None]), "bool tensor"),
        (lambda: Scale("embed", 2.0, beyond=True), "there is none"),
        (lambda: Scale("embed", 2.0, where=some, beyond=1), "True or False"),
    ]:
        with pytest.raises(UsageError, match=text):
            make()
    model = nano("mamba")
    with pytest.raises(UsageError, match="does not fit a batch of 2"), model.edit(Scale("embed", 2.0, where=MASK)):
        model(tokens(2, 5))
    late = torch.arange(9) == 8
    with pytest.raises(UsageError, match="never fired"), model.edit(Scale("embed", 2.0, where=late)):
        model(tokens(2, 5))
    with model.edit(Scale("embed", 2.0, where=late)):
        with pytest.raises(UsageError, match="no prompt has a token"):
            generate(model, [[1, 2, 3]], max_new_tokens=4, stop=())
        model(tokens(1, 9))
    hyena = nano("hyena")
    with pytest.raises(UsageError, match="no mask fits"), hyena.edit(Scale("blocks.0.mixer.filter", 2.0, where=some)):
        pass


@torch.no_grad()
def test_a_text_that_ends_before_its_masked_tokens_is_no_error() -> None:
    model = nano("mamba")
    prompt = tokens(1, 5)[0].tolist()
    late = torch.zeros(5, dtype=torch.bool)
    with model.edit(Scale("embed", 2.0, where=late, beyond=True)):
        generate(model, [prompt], max_new_tokens=1, stop=())


@torch.no_grad()
def test_masks_are_stored_with_their_edits(tmp_path: Path) -> None:
    model = nano("mamba")
    edits = [Scale("embed", 2.0, where=MASK, beyond=True), Scale("blocks.0.mixer.h", 0.5, where=MASK[0])]
    save_edits(tmp_path, edits)
    again = load_edits(tmp_path)
    assert torch.equal(again[0].where, MASK) and again[0].beyond and not again[1].beyond
    with model.edit(*edits):
        expected = model(tokens(3, 8))
    with model.edit(*again):
        assert torch.equal(model(tokens(3, 8)), expected)
