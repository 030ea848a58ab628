"""Dictionaries of features from files: read either way round, refused where a feature does not stand alone."""

from __future__ import annotations

import json

import pytest
import torch
from model_zoo import nano, tokens
from mplat.core.errors import InputError, UsageError
from mplat.models import Features
from mplat.steering.features import Dictionary, read_dictionary
from safetensors.torch import save_file

F, C = 7, 24


def stored(path, config=None, turned=False, features=F, width=C, **changes):
    generator = torch.Generator().manual_seed(0)
    encoder, decoder = (torch.randn(features, width, generator=generator) for _ in range(2))
    bias, centre = torch.randn(features, generator=generator), torch.randn(width, generator=generator)
    tensors = {
        "W_enc": encoder if turned else encoder.T.contiguous(), "W_dec": decoder.T.contiguous() if turned else decoder,
        "b_enc": bias, "b_dec": centre,
    }  # fmt: skip
    tensors = {k: v for k, v in (tensors | changes).items() if v is not None}
    save_file(tensors, path / "sae.safetensors")
    if config is not None:
        (path / "cfg.json").write_text(json.dumps(config))
    return path / "sae.safetensors", (encoder, bias, decoder, centre)


@pytest.mark.parametrize("turned", [False, True])
def test_a_dictionary_is_the_same_whichever_way_round_its_matrices_are(tmp_path, turned):
    path, (encoder, bias, decoder, centre) = stored(tmp_path, turned=turned)
    found = read_dictionary(path)
    assert torch.equal(found.encoder, encoder) and torch.equal(found.decoder, decoder)
    assert torch.equal(found.bias, bias) and torch.equal(found.centre, centre) and found.threshold is None
    assert (found.n_features, found.width) == (F, C)


def test_a_square_dictionary_is_read_as_its_format_has_it(tmp_path):
    path, (encoder, _, decoder, _) = stored(tmp_path, features=C)
    found = read_dictionary(path)
    assert torch.equal(found.encoder, encoder) and torch.equal(found.decoder, decoder)


def test_latents_are_those_of_the_formula_and_jump_where_there_is_a_threshold(tmp_path):
    path, (encoder, bias, _, centre) = stored(tmp_path)
    x = torch.randn(5, C, generator=torch.Generator().manual_seed(1)).double()
    z = (x - centre.double()) @ encoder.double().T + bias.double()
    torch.testing.assert_close(read_dictionary(path).latents(x), z.clamp(min=0))
    height = torch.full((F,), 2.0)
    path, _ = stored(tmp_path, {"architecture": "jumprelu", "apply_b_dec_to_input": False}, threshold=height)
    z = x @ encoder.double().T + bias.double()
    found = read_dictionary(path)
    torch.testing.assert_close(found.latents(x), torch.where(z > 2, z, 0.0))
    assert found.centre is None


@torch.no_grad()
def test_a_part_of_chosen_features_is_the_edit_of_the_whole_dictionary_and_keeps_what_it_does_not_reconstruct(tmp_path):
    model, site = nano("mamba"), "blocks.1.resid_post"
    path, (encoder, bias, decoder, centre) = stored(tmp_path)
    found = read_dictionary(path)
    factor = torch.ones(F)
    factor[[4, 1]] = 3.0
    whole = Features(site, encoder, bias, decoder, centre, factor=factor)
    values = torch.tensor([0.5, -2.0])
    few = (1, 4)

    def read(*edits):
        with model.capture(site) as acts, model.edit(*edits):
            model(tokens(2, 5))
        return acts[site]

    part = found.part(model, "resid_post", 1, (4, 1), 3.0)
    torch.testing.assert_close(read(*part.edits(model)), read(whole), rtol=0, atol=1e-12)
    assert part.tensors["encoder"].shape == (2, C)
    clamped = found.part(model, "resid_post", 1, few, 1.0, values=values.tolist())
    x = read()
    wanted = x + (values.double() - found.latents(x)[..., list(few)]) @ decoder[list(few)].double()
    torch.testing.assert_close(read(*clamped.edits(model)), wanted, rtol=0, atol=1e-12)


@pytest.mark.parametrize(("changes", "config", "message"), [
    ({"W_dec": None}, None, "W_dec missing"),
    ({"b_enc": torch.full((F,), float("nan"))}, None, "bias holds values that are not finite"),
    ({"W_enc": torch.zeros(C, F + 1)}, None, r"encoder has shape"),
    ({"W_dec": torch.zeros(F + 1, C)}, None, r"decoder has shape \(8, 24\), which should be \(7, 24\)"),
    ({"W_gate": torch.zeros(C, F)}, None, "W_gate is no part of a relu or jumprelu dictionary"),
    ({}, {"architecture": "topk"}, "kind 'topk' with activation 'relu' is not read"),
    ({}, {"architecture": "standard", "activation_fn_str": "topk"}, "with activation 'topk' is not read"),
    ({}, {"architecture": "jumprelu"}, "has a threshold for each feature"),
    ({}, {"normalize_activations": "layer_norm"}, r"were normalised \(layer_norm\)"),
])  # fmt: skip
def test_a_file_that_is_no_such_dictionary_is_refused_by_name(tmp_path, changes, config, message):
    path, _ = stored(tmp_path, config, **changes)
    with pytest.raises(InputError, match=message) as caught:
        read_dictionary(path)
    assert "sae.safetensors" in str(caught.value)


def test_other_widths_files_and_features_are_refused(tmp_path):
    path, _ = stored(tmp_path, width=12)
    narrow = read_dictionary(path)
    with pytest.raises(InputError, match=r"a site with 12 channels, and blocks\.0\.mixer_out of .* has 24"):
        narrow.part(nano("mamba"), "mixer_out", 0, [0], 2.0)
    with pytest.raises(UsageError, match=r"has features 0 to 6, each named once; not \[7\]"):
        narrow.part(nano("mamba"), "mixer_out", 0, [7], 2.0)
    with pytest.raises(InputError, match="cannot be read"):
        read_dictionary(tmp_path / "none.safetensors")
    (tmp_path / "bad.safetensors").write_bytes(b"no tensors")
    with pytest.raises(InputError, match="damaged, or no safetensors file"):
        read_dictionary(tmp_path / "bad.safetensors")
    with pytest.raises(UsageError, match="encoder holds values that are not finite"):
        Dictionary(torch.full((1, 2), float("inf")), torch.zeros(1), torch.zeros(1, 2))
