"""transformers' Auto classes read the folders of our own architectures, whichever was imported first."""

from __future__ import annotations

import copy
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from model_zoo import nano, tokens
from mplat.models import load
from mplat.models import mixer as mixers
from mplat.models.auto_classes.transformers_auto import own_architectures
from transformers import AutoConfig, AutoModelForCausalLM

OWN = own_architectures()


def test_own_architectures_are_those_without_a_class_in_transformers() -> None:
    assert OWN == [n for n in mixers.names() if mixers.get(n).hf_class is None]
    assert OWN and not {"mamba", "mamba2", "falcon_mamba"} & set(OWN)


@pytest.mark.parametrize("arch", OWN)
@torch.no_grad()
def test_from_pretrained_gives_the_same_model(arch: str, tmp_path: Path) -> None:
    ours = nano(arch, dtype=torch.float32, tie_embeddings=arch != OWN[0])
    theirs = AutoModelForCausalLM.from_pretrained(ours.save(tmp_path / "ours")).eval()
    assert theirs.config.model_type == arch and theirs.config.hidden_size == ours.config.d_model
    assert theirs.language_model.config == ours.config
    text = tokens(2, 9)
    assert torch.equal(theirs(text).logits, ours(text))
    mask = torch.ones_like(text)
    mask[0, :4] = 0  # on the left, as tokenizers of transformers pad
    assert torch.equal(theirs(text, attention_mask=mask).logits, ours(text, mask.bool()))
    assert {n for n, _ in theirs.named_parameters()} == {n for n, _ in ours.named_parameters()}
    theirs.save_pretrained(tmp_path / "theirs")
    again = load(tmp_path / "theirs")
    assert again.config == ours.config and again.digest == ours.digest


@pytest.mark.parametrize(
    ("arch", "options"), [("hyena", {"max_length": 32}), ("moe_mamba", {"router": "topk", "top_k": 2})]
)
@torch.no_grad()
def test_options_that_transformers_takes_for_those_of_its_generation_stay(
    arch: str, options: dict[str, object], tmp_path: Path
) -> None:
    ours = nano(arch, dtype=torch.float32, **options)
    theirs = AutoModelForCausalLM.from_pretrained(ours.save(tmp_path)).eval()
    assert torch.equal(theirs(tokens(2, 9)).logits, ours(tokens(2, 9)))
    assert {k: theirs.config.to_dict()[k] for k in options} == options


def test_a_new_model_has_our_initialisation_and_a_loss(tmp_path: Path) -> None:
    config = AutoConfig.from_pretrained(nano(OWN[0], dtype=torch.float32).save(tmp_path))
    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(config)
    text = tokens(2, 9)
    loss = model(text, labels=text).loss
    by_hand = torch.nn.functional.cross_entropy(model(text).logits[:, :-1].flatten(0, 1), text[:, 1:].flatten())
    torch.testing.assert_close(loss, by_hand)
    assert 3.0 < float(loss.detach()) < 4.5  # ln 40 = 3.7
    torch.manual_seed(3)
    assert torch.equal(AutoModelForCausalLM.from_config(config)(text).logits, model(text).logits)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        twin.get_input_embeddings().weight.zero_()
    assert not torch.equal(twin.language_model(text), model(text).logits)


ORDERS = (
    "import mplat.models; assert 'transformers' not in sys.modules",
    "from transformers import AutoConfig; import mplat.models",
    "from transformers import AutoModelForCausalLM; import mplat.models",
)


@pytest.mark.slow
def test_the_order_of_imports_does_not_matter(tmp_path: Path) -> None:
    """Each order in a process of its own, which has torch from the one that starts it and nothing else."""
    nano(OWN[0]).save(tmp_path)
    program = f"""
import os, sys
import torch
assert not {{"mplat", "transformers"}} & {{*sys.modules}}
for first in {ORDERS!r}:
    child = os.fork()
    if not child:
        exec(first)
        from transformers import AutoConfig, AutoModelForCausalLM
        print(type(AutoConfig.from_pretrained({str(tmp_path)!r})).model_type)
        print(AutoModelForCausalLM.from_pretrained({str(tmp_path)!r}).language_model.config.arch, flush=True)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0, first
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == [OWN[0], OWN[0]] * len(ORDERS)
