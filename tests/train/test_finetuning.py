"""Training on from a model that there is: all its weights, or low-rank changes of its projections."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from mplat.core.errors import InputError, UsageError
from mplat.models import build, load
from mplat.models.low_rank import attach, merge, merged, projections
from mplat.models.model_config import ModelConfig
from mplat.train.loop import train
from mplat.train.train_config import TrainConfig

ARCHITECTURES = ("mamba", "mamba2", "moe_mamba", "striped_hyena")


def small(**more: Any) -> TrainConfig:
    return TrainConfig.model_validate(
        {
            "steps": 4, "batch_size": 2, "sequence_length": 48, "threads": 1,
            "evaluation": {"every": 0, "prompts_per_level": 1}, "checkpoint": {"every": 2},
            "optimizer": {"learning_rate": 0.002}, "schedule": {"warmup_steps": 0},
            "start": {"model": "tiny-mamba"},
        } | more
    )  # fmt: skip


def losses(folder: Path) -> list[float]:
    import json

    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_changes_are_nothing_at_first_and_merge_into_what_was_learned(arch: str) -> None:
    torch.manual_seed(0)
    model = build(ModelConfig(arch=arch, vocab_size=32, d_model=32, n_layers=2), seed=0)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    tokens = torch.randint(32, (2, 12))
    with torch.no_grad():
        alone = model(tokens)
    attach(model, rank=3, alpha=6.0, seed=0)
    learned = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
    assert learned and all(name.endswith((".0.a", ".0.b")) for name in learned)
    with torch.no_grad():
        assert torch.equal(model(tokens), alone)
        for name, parameter in model.named_parameters():
            if name.endswith(".0.b"):
                parameter.normal_()
        changed, stored = model(tokens), {name: tensor.clone() for name, tensor in model.state_dict().items()}
        assert (changed - alone).abs().max() > 1e-3
    prefix = next(name for name in stored if name.endswith(".0.a")).removesuffix(".0.a")
    a, b = stored[f"{prefix}.0.a"], stored[f"{prefix}.0.b"]
    merge(model)
    name = prefix.replace(".parametrizations", "")
    assert torch.allclose(model.state_dict()[name], before[name] + 6.0 / 3 * b @ a, atol=1e-6)
    with torch.no_grad():
        assert torch.allclose(model(tokens), changed, atol=1e-6)
    now = model.state_dict()
    assert now.keys() == before.keys()
    assert all(torch.equal(tensor, now[name]) for name, tensor in merged(stored).items())
    touched = {name for name in before if not torch.equal(before[name], now[name])}
    assert touched == set(projections(model))
    ranks = {int(torch.linalg.matrix_rank((now[w] - before[w]).double(), rtol=1e-4)) - min(3, *now[w].shape)
             for w in touched}  # fmt: skip
    assert ranks == {0}


@pytest.mark.slow
def test_starts_with_the_model_and_continues_bit_for_bit(tmp_path: Path) -> None:
    """Four steps are two, a stop, and two more, of low-rank changes; the first loss is that of the model itself."""
    config = small(start={"model": "tiny-mamba", "lora_rank": 2})
    whole = train(config, tmp_path / "whole")
    first = train(config, tmp_path / "parts")
    for step in (tmp_path / "parts" / "checkpoints").glob("step-*4"):
        import shutil

        shutil.rmtree(step)
    assert train(config, tmp_path / "parts").model_digest == whole.model_digest == first.model_digest
    trained, base = load(str(tmp_path / "whole" / "model")).state_dict(), load("tiny-mamba").state_dict()
    assert trained.keys() == base.keys()
    changed = {name for name in base if not torch.equal(base[name].float(), trained[name].float())}
    assert changed == set(projections(load("tiny-mamba")))
    # a checkpoint on the way is a model as well
    on_the_way = load(f"{tmp_path / 'whole'}@4").state_dict()
    assert all(torch.equal(tensor, trained[name]) for name, tensor in on_the_way.items())
    fresh = train(small(start={}, model={"arch": "mamba"}), tmp_path / "fresh")
    assert fresh.final_loss is not None and losses(tmp_path / "whole")[0] < losses(tmp_path / "fresh")[0] - 1


def test_all_weights_are_trained_without_a_rank(tmp_path: Path) -> None:
    train(small(steps=2), tmp_path)
    trained, base = load(str(tmp_path / "model")).state_dict(), load("tiny-mamba").state_dict()
    same = [name for name in base if torch.equal(base[name].float(), trained[name].float())]
    assert same == []


def test_refuses_what_cannot_be(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave the section model out"):
        small(model={"arch": "mamba"})
    with pytest.raises(ValueError, match="need a model to change"):
        small(start={"lora_rank": 2})
    with pytest.raises(InputError, match="comes without a tokenizer"):
        train(small(start={"model": _without_tokenizer(tmp_path)}), tmp_path / "a")
    with pytest.raises((InputError, UsageError), match="nowhere"):
        train(small(start={"model": str(tmp_path / "nowhere")}), tmp_path / "b")
    assert not (tmp_path / "a").exists() and not (tmp_path / "b").exists()


def test_refuses_another_tokenizer(tmp_path: Path) -> None:
    import json

    from mplat.datasets.tokens.tokenizer import SHIPPED

    other = tmp_path / "other"
    other.mkdir()
    content = json.loads((SHIPPED / "tokenizer.json").read_text())
    first, second = list(content["model"]["vocab"])[:2]
    vocabulary = content["model"]["vocab"]
    vocabulary[first], vocabulary[second] = vocabulary[second], vocabulary[first]
    (other / "tokenizer.json").write_text(json.dumps(content))
    (other / "tokenizer_config.json").write_text((SHIPPED / "tokenizer_config.json").read_text())
    with pytest.raises(InputError, match="another tokenizer"):
        train(small(data={"tokenizer": str(other)}), tmp_path / "run")


def _without_tokenizer(tmp_path: Path) -> str:
    folder = tmp_path / "bare"
    load("tiny-mamba").save(folder)
    for path in folder.glob("*token*"):
        path.unlink()
    return str(folder)
