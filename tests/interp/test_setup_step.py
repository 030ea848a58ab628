"""The parity certificate: a sound model passes every check, and each kind of breakage is found and named."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from interp_jobs import reader, run_step, token_items
from mplat.core.errors import InputError
from mplat.models import LanguageModel, Scale
from mplat.models.access.run import Applied
from mplat.models.mixer import SiteInfo

Row = dict[str, Any]
EVERY = {
    "fires", "finite", "repeat", "draws_nothing", "watching", "decode", "padding", "identity", "edits_gone",
    "nothing_left", "weights",
}  # fmt: skip


def certificate(model: LanguageModel, **settings: int) -> dict[str, Row]:
    """Check -> its row."""
    tables = run_step("setup", model, token_items(5), **{"prompts": 2, "tokens": 6} | settings)
    return {row["check"]: row for row in tables["checks"].to_pylist()}


def failed(model: LanguageModel) -> dict[str, str]:
    """Check -> what is wrong, of those that fail."""
    rows = certificate(model)
    assert rows.keys() == EVERY
    return {name: row["reason"] for name, row in rows.items() if row["status"] == "check_failed"}


def with_mixer(model: LanguageModel, change: Callable[..., torch.Tensor], block: int = 1) -> LanguageModel:
    """The model with what one mixer gives replaced by `change(output, state, run)`."""
    mixer = model.blocks[block].mixer
    own = mixer.forward

    def forward(u: Any, run: Any, prefix: str, state: Any, need_state: bool) -> tuple[torch.Tensor, Any]:
        out, new = own(u, run, prefix, state, need_state)
        return change(out, state, run), new

    mixer.forward = forward
    return model


@pytest.mark.parametrize(
    ("arch", "dtype"),
    [
        ("mamba", torch.float32), ("mamba2", torch.bfloat16), ("hyena", torch.float64), ("moe_mamba", torch.float32),
        ("moe_mamba", torch.bfloat16),
    ],
)  # fmt: skip
def test_a_sound_model_passes_every_check_within_its_bounds(arch: str, dtype: torch.dtype) -> None:
    rows = certificate(reader(arch, dtype=dtype))
    assert rows.keys() == EVERY
    for row in rows.values():
        assert row["status"] == "ok" and row["reason"] is None, row
        assert row["difference"] is None or row["difference"] <= row["bound"]
    exact = {name for name, row in rows.items() if row["bound"] == 0.0}
    assert exact == {"repeat", "watching", "identity", "edits_gone"}
    assert rows["fires"]["comparisons"] == 2 * len(reader(arch).sites()) and rows["fires"]["prompts"] == 2


def test_every_site_has_a_row_with_what_was_measured_there() -> None:
    model = reader()
    rows = run_step("setup", model, token_items(3), prompts=1, tokens=5)["sites"].to_pylist()
    assert [row["site"] for row in rows] == [site.name for site in model.sites()]
    for row, site in zip(rows, model.sites(), strict=True):
        assert row["site"] == (row["name"] if row["layer"] is None else f"blocks.{row['layer']}.{row['name']}")
        assert row["status"] == "ok" and row["repeat_difference"] == 0.0 and row["editable"] == site.editable
        assert 0.0 <= row["decode_difference"] <= row["bound"]


def test_the_certificate_says_what_it_is_for() -> None:
    model = reader()
    rows = run_step("setup", model, token_items(3), seed=7, prompts=1, tokens=3)["versions"].to_pylist()
    found = {(row["kind"], row["name"]): row["value"] for row in rows}
    assert found["model", "digest"] == model.digest and found["seed", "seed"] == "7"
    assert found["package", "torch"] == torch.__version__ and found["backend", "scan"] in ("numba", "torch")
    assert len(found["tokenizer", "digest"] or "") == 64
    model.tokenizer = None
    (row,) = [
        row
        for row in run_step("setup", model, token_items(3), prompts=1, tokens=3)["versions"].to_pylist()
        if row["kind"] == "tokenizer"
    ]
    assert row["value"] is None and row["status"] == "not_applicable"


def declaring(model: LanguageModel, *more: SiteInfo) -> LanguageModel:
    """The model with sites that its first block declares and never has."""
    block = model.blocks[0]
    own = block.site_table
    block.site_table = lambda: [*own(), *more]
    return model


def test_a_site_that_never_fires_is_named() -> None:
    found = failed(declaring(reader(), SiteInfo("mixer.ghost", (3,), "nothing", editable=False)))
    assert found == {"fires": "blocks.0.mixer.ghost never fires"}
    found = failed(declaring(reader(), SiteInfo("mixer.ghost", (3,), "nothing")))
    assert found.keys() == {"fires", "identity", "edits_gone"}  # an edit that is wanted there cannot act
    assert all("blocks.0.mixer.ghost" in reason for reason in found.values())


@pytest.mark.parametrize(
    ("change", "said"), [({"shape": (7,)}, "and declares (1, 6, 7)"), ({"wide": True}, "declares float32")]
)
def test_a_site_of_another_shape_or_dtype_than_it_declares_is_named(change: dict[str, Any], said: str) -> None:
    model = reader(dtype=torch.bfloat16)
    block = model.blocks[1]
    own = block.site_table
    block.site_table = lambda: [s._replace(**change) if s.name == "mixer_in" else s for s in own()]
    found = failed(model)
    assert found.keys() == {"fires"} and "blocks.1.mixer_in" in found["fires"] and said in found["fires"]


def test_decoding_that_differs_from_one_pass_is_found_and_placed() -> None:
    def wrong(by: float) -> LanguageModel:
        return with_mixer(reader(), lambda out, state, run: out if state is None else out * (1 + by))

    row = certificate(wrong(0.05))["decode"]
    assert row["status"] == "check_failed" and row["difference"] > row["bound"] > 0
    assert row["worst"] is not None and "differs by" in row["reason"]
    sites = run_step("setup", wrong(0.05), token_items(2), prompts=1, tokens=6)["sites"].to_pylist()
    broken = {site["site"] for site in sites if site["status"] == "check_failed"}
    assert "blocks.1.mixer_out" in broken and not any(name.startswith("blocks.0") for name in broken)
    assert failed(wrong(0.05)).keys() == {"decode"}
    assert failed(wrong(1e-7)) == {}  # as much as rounding does


def test_decoding_that_cannot_be_done_is_found_with_its_error() -> None:
    def fails(out: torch.Tensor, state: Any, run: Any) -> torch.Tensor:
        if state is not None:
            raise InputError("no state is taken")
        return out

    assert failed(with_mixer(reader(), fails)) == {"decode": "InputError: no state is taken"}


def test_a_run_that_is_not_repeated_is_found_whether_it_draws_numbers_or_counts() -> None:
    drawn = failed(with_mixer(reader(), lambda out, state, run: out + 1e-4 * torch.randn_like(out)))
    assert {"repeat", "draws_nothing"} <= drawn.keys() and "global generator" in drawn["draws_nothing"]
    calls = iter(range(10**6))
    counted = failed(with_mixer(reader(), lambda out, state, run: out + 1e-4 * next(calls)))
    assert "repeat" in counted and "draws_nothing" not in counted


def test_what_a_global_seed_decides_is_found_where_the_generator_is_put_back() -> None:
    def hidden(out: torch.Tensor, state: Any, run: Any) -> torch.Tensor:
        with torch.random.fork_rng(devices=[]):
            return out + 1e-4 * torch.randn_like(out)

    found = failed(with_mixer(reader(), hidden))
    assert "repeat" in found and "draws_nothing" not in found


def test_a_row_that_depends_on_its_neighbours_is_found() -> None:
    found = failed(with_mixer(reader(), lambda out, state, run: out + 0.05 * (out.flip(0) - out)))
    assert found.keys() == {"padding"}


def test_what_is_left_behind_is_found_and_named() -> None:
    model = reader()
    with model.edit(Scale("blocks.0.mixer_out", 0.5)):
        found = failed(model)
    assert found.keys() == {"nothing_left"} and "Scale(blocks.0.mixer_out)" in found["nothing_left"]
    assert failed(model) == {}
    hook = model.blocks[1].register_forward_hook(lambda *parts: None)
    assert "has 1 hook" in failed(model)["nothing_left"]
    hook.remove()
    assert failed(model) == {}


def test_an_edit_that_is_not_undone_is_found() -> None:
    model = reader()

    @contextmanager
    def edit(*edits: Any) -> Any:
        with LanguageModel.edit(model, *edits):
            yield
        last = edits[-1]
        model._edits = [*model._edits, Applied(last, frozenset([last.site]), fired=1)]

    model.edit = edit
    found = failed(model)
    assert {"edits_gone", "nothing_left"} <= found.keys() and "after the checks" in found["nothing_left"]


def test_an_edit_that_does_nothing_at_all_is_found() -> None:
    model = reader()

    @contextmanager
    def edit(*edits: Any) -> Any:
        yield

    model.edit = edit
    assert failed(model) == {"edits_gone": "halving every site changes no logit"}


def test_an_identity_that_changes_something_is_found_with_its_sites(monkeypatch: pytest.MonkeyPatch) -> None:
    own = Scale.combined

    def combined(self: Scale, x: torch.Tensor, value: torch.Tensor) -> torch.Tensor:
        return own(self, x, value) + (1e-3 if self.site == "blocks.1.mixer_out" else 0.0)

    monkeypatch.setattr(Scale, "combined", combined)
    row = certificate(reader())["identity"]
    assert row["status"] == "check_failed" and row["comparisons"] > 2
    sites = run_step("setup", reader(), token_items(2), prompts=1, tokens=4)["sites"].to_pylist()
    assert [s["site"] for s in sites if s["status"] == "check_failed"] == ["blocks.1.mixer_out"]


def test_weights_that_reading_changes_are_found() -> None:
    model = reader()

    def drifts(out: torch.Tensor, state: Any, run: Any) -> torch.Tensor:
        model.backbone.norm_f.weight.mul_(1 + 1e-6)
        return out

    assert "weights" in failed(with_mixer(model, drifts))


def test_logits_that_are_not_finite_are_found() -> None:
    model = reader()
    with torch.no_grad():
        model.backbone.norm_f.weight[0] = torch.inf
    assert "logits are not finite" in failed(model)["finite"]


def test_a_text_of_one_token_has_nothing_to_pad() -> None:
    items = [item for item in token_items(2)]
    items = [type(item)(item.id, item.prompt[:1], item.answer) for item in items]
    rows = {row["check"]: row for row in run_step("setup", reader(), items)["checks"].to_pylist()}
    assert rows["padding"]["status"] == "not_applicable" and rows["padding"]["difference"] is None
    assert rows["decode"]["status"] == "ok"
