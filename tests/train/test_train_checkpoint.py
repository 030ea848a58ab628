"""A checkpoint is whole or it is not one."""

import json
import os
import subprocess
import sys
import textwrap

import pytest
import torch
from mplat.core.errors import InputError
from mplat.train import checkpoint
from safetensors import SafetensorError
from train_runs import config, random_batch, small_model

TRAINER = {"step": 4, "tokens": 80, "config": {}}


def trained_model(seed=0):
    """A model and an optimizer with moments."""
    model = small_model()
    optimizer = torch.optim.AdamW(model.param_groups(0.1), lr=1e-3)
    batch = random_batch(2, 6)
    for _ in range(2):
        optimizer.zero_grad()
        model(batch.tokens).pow(2).mean().backward()
        optimizer.step()
    return model, optimizer


def test_restoring_gives_back_weights_moments_and_generator(tmp_path):
    model, optimizer = trained_model()
    torch.manual_seed(11)
    path = checkpoint.save(tmp_path, model, optimizer, TRAINER)
    expected = torch.rand(3)
    fresh = small_model()
    again = torch.optim.AdamW(fresh.param_groups(0.1), lr=1e-3)
    trainer = checkpoint.restore(path, fresh, again)
    assert torch.equal(torch.rand(3), expected)
    assert (trainer["step"], trainer["tokens"]) == (4, 80)
    for (name, a), b in zip(model.named_parameters(), fresh.parameters(), strict=True):
        assert torch.equal(a, b), name
        assert optimizer.state[a].keys() == again.state[b].keys() == {"step", "exp_avg", "exp_avg_sq"}
        assert all(torch.equal(optimizer.state[a][key], again.state[b][key]) for key in optimizer.state[a])


def test_the_same_state_gives_the_same_bytes(tmp_path):
    model, optimizer = trained_model()
    a = checkpoint.save(tmp_path / "a", model, optimizer, TRAINER)
    b = checkpoint.save(tmp_path / "b", model, optimizer, TRAINER)
    assert [p.read_bytes() for p in sorted(a.iterdir())] == [p.read_bytes() for p in sorted(b.iterdir())]


@pytest.mark.parametrize("name", ["model.safetensors", "optimizer.safetensors", "trainer.json", "manifest.json"])
@pytest.mark.parametrize("fault", ["missing", "empty", "cut", "flipped"])
def test_a_damaged_checkpoint_is_named_and_the_one_before_it_used(tmp_path, name, fault):
    model, optimizer = trained_model()
    older = checkpoint.save(tmp_path, model, optimizer, TRAINER)
    newer = checkpoint.save(tmp_path, model, optimizer, TRAINER | {"step": 8})
    file = newer / name
    data = bytearray(file.read_bytes())
    if fault == "missing":
        file.unlink()
    elif fault == "flipped":
        data[len(data) // 2] ^= 0x80
        file.write_bytes(data)
    else:
        file.write_bytes(data[: 0 if fault == "empty" else len(data) // 2])
    warnings = []
    assert checkpoint.latest(tmp_path, warnings.append) == older
    assert len(warnings) == 1 and str(newer) in warnings[0] and name in warnings[0]
    with pytest.raises(InputError, match="cannot be used"):
        checkpoint.restore(newer, model, optimizer)


@pytest.mark.parametrize("step_saved", [4, 8])
def test_f28_killed_between_write_and_rename_the_previous_checkpoint_is_used(tmp_path, monkeypatch, step_saved):
    """Also where the interrupted checkpoint is of a step that has one already."""

    class Killed(BaseException):
        pass

    model, optimizer = trained_model()
    older = checkpoint.save(tmp_path, model, optimizer, TRAINER | {"step": 2})
    checkpoint.save(tmp_path, model, optimizer, TRAINER)
    real = os.rename

    def rename(source, target):
        if str(target).endswith(f"step-{step_saved:08d}"):
            raise Killed
        real(source, target)

    monkeypatch.setattr(os, "rename", rename)
    with pytest.raises(Killed):
        checkpoint.save(tmp_path, model, optimizer, TRAINER | {"step": step_saved})
    monkeypatch.undo()
    found = checkpoint.latest(tmp_path, pytest.fail)
    assert found == (older if step_saved == 4 else tmp_path / "step-00000004")
    assert checkpoint.damage(found) is None
    checkpoint.sweep(tmp_path)
    assert all(p.name.startswith("step-") for p in tmp_path.iterdir())


@pytest.mark.slow
def test_f28_a_process_killed_while_writing_leaves_the_previous_checkpoint(tmp_path):
    """A real SIGKILL in the middle of the second checkpoint's files."""
    program = textwrap.dedent("""
        import os, signal, sys
        from pathlib import Path
        import torch
        from mplat.train import checkpoint
        model = torch.nn.Linear(3, 2)
        optimizer = torch.optim.AdamW(model.parameters())
        folder = Path(sys.argv[1])
        checkpoint.save(folder, model, optimizer, {"step": 1})
        checkpoint._write_json = lambda path, value: os.kill(os.getpid(), signal.SIGKILL)
        checkpoint.save(folder, model, optimizer, {"step": 2})
    """)
    killed = subprocess.run([sys.executable, "-c", program, str(tmp_path)], timeout=60)
    assert killed.returncode == -9
    assert [p.name.endswith(".part") for p in sorted(tmp_path.iterdir())] == [True, False]
    found = checkpoint.latest(tmp_path, pytest.fail)
    assert found is not None and json.loads((found / "trainer.json").read_text())["step"] == 1


def test_pruning_keeps_the_latest_and_the_best(tmp_path):
    model, optimizer = trained_model()
    for step in (2, 4, 6, 8):
        checkpoint.save(tmp_path, model, optimizer, TRAINER | {"step": step})
    checkpoint.prune(tmp_path, 2, keep={2})
    assert [checkpoint.step_of(p) for p in checkpoint.steps(tmp_path)] == [2, 6, 8]
    assert len(list(tmp_path.iterdir())) == 3


def test_a_checkpoint_of_another_model_is_refused_before_anything_changes(tmp_path):
    model, optimizer = trained_model()
    path = checkpoint.save(tmp_path, model, optimizer, TRAINER)
    other = small_model(vocab_size=48)
    before = other.backbone.embeddings.weight.clone()
    with pytest.raises(InputError, match=r"belongs to another model: backbone\.embeddings\.weight"):
        checkpoint.restore(path, other, torch.optim.AdamW(other.parameters()))
    assert torch.equal(other.backbone.embeddings.weight, before)


def test_a_full_disk_is_an_error_of_the_system_with_the_file(tmp_path, monkeypatch):
    def full(tensors, path):
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match=r"No space left on device.*model\.safetensors") as caught:
        checkpoint.save(tmp_path, *trained_model(), TRAINER)
    assert caught.value.errno == 28
    assert checkpoint.latest(tmp_path, pytest.fail) is None


def test_config_survives_the_round_trip(tmp_path):
    run = config()
    path = checkpoint.save(tmp_path, *trained_model(), TRAINER | {"config": run.model_dump(mode="json")})
    assert type(run).model_validate(checkpoint.read_trainer(path)["config"]) == run
