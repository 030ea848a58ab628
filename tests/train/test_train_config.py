"""Equal runs compare equal, whatever wrote them down; arithmetic is chosen for a stated reason."""

from types import SimpleNamespace

import pytest
import torch
from mplat.core.config import dump_config, load_config
from mplat.train.loss import accumulate_gradients
from mplat.train.precision import Precision, choose_precision
from mplat.train.train_config import TrainConfig, differing_fields
from train_runs import config, random_batch, small_model

CPU = torch.device("cpu")


def stored(run):
    return run.resolved().model_dump(mode="json")


def test_a_resolved_configuration_is_read_back_as_the_same_run(tmp_path):
    run = config(steps=None, tokens="10k", model={"options": {"n_groups": 2}})
    path = tmp_path / "config.yaml"
    path.write_text(dump_config(run.resolved()))
    again = load_config(TrainConfig, path, [])
    assert again == run.resolved() == again.resolved()
    assert differing_fields(again, stored(run)) == []


def test_only_what_changes_the_training_makes_another_run():
    run = config().resolved()
    harmless = config(threads=2, log_every=5, checkpoint={"every": 3}, export={"dtype": "float16"})
    assert differing_fields(run, stored(harmless)) == []
    assert differing_fields(run, stored(config(seed=4, model={"options": {"head_dim": 8}}))) == [
        "model.options.head_dim",
        "seed",
    ]


def test_a_field_that_a_stored_run_does_not_know_had_its_default():
    older = stored(config())
    del older["optimizer"]["eps"]
    assert differing_fields(config().resolved(), older) == []
    assert differing_fields(config(optimizer={"eps": 1e-6}).resolved(), older) == ["optimizer.eps"]


@pytest.mark.parametrize(
    ("capabilities", "d_model", "autocast", "reason"),
    [
        ({"amx_bf16": True, "avx512_bf16": True}, 768, True, "AMX multiplies bfloat16"),
        ({"avx512_bf16": True}, 512, True, "AVX512-BF16 multiplies bfloat16"),
        ({"amx_bf16": True}, 128, False, "d_model 128 is below 512"),
        ({}, 768, False, "no bfloat16 units"),
    ],
)
def test_bfloat16_only_where_it_pays(monkeypatch, capabilities, d_model, autocast, reason):
    monkeypatch.setattr(torch, "cpu", SimpleNamespace(get_capabilities=lambda: capabilities))
    chosen = choose_precision("auto", CPU, d_model)
    assert chosen.autocast is autocast and reason in chosen.reason
    assert choose_precision("float32", CPU, d_model).autocast is False
    assert choose_precision("bfloat16", CPU, d_model).autocast is True


@pytest.mark.parametrize("arch", ["mamba", "mamba2"])
def test_autocast_keeps_weights_and_gradients_in_float32_and_the_loss_close(arch):
    model = small_model(arch, dtype=torch.float32)
    batch = random_batch(2, 12, dtype=torch.float32)
    exact = accumulate_gradients(model, batch, 2, Precision(False, "cpu", ""))
    model.zero_grad()
    rounded = accumulate_gradients(model, batch, 2, Precision(True, "cpu", ""))
    assert rounded.loss != exact.loss
    assert rounded.loss == pytest.approx(exact.loss, rel=2e-3)
    assert {p.dtype for p in model.parameters()} == {p.grad.dtype for p in model.parameters() if p.grad is not None}
    assert next(model.parameters()).dtype == torch.float32
