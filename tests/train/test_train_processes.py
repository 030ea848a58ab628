"""Two processes train what one does: the same losses, steps left out alike, and each goes on with the other's state.

They are plain processes over a file; under Ray the same loop is tested in test_train_on_workers.
"""

import json

import pytest
import torch
from mplat.train import checkpoint, train
from mplat.train.log import read_log
from mplat.train.loss import passes
from mplat.train.processes import ALONE
from safetensors.torch import load_file
from train_group import run_group
from train_runs import config

pytestmark = pytest.mark.slow

STEPS = 8
DENSE = {"steps": STEPS, "device": "cpu", "evaluation": {"every": 4}, "threads": 1}
# experts balance and overflow within a forward pass, so one process makes the passes that two would
EXPERTS = DENSE | {"model": {"arch": "moe_mamba", "size": "nano"}, "micro_batch_size": 2}
UNEVEN = DENSE | {"batch_size": 3, "micro_batch_size": 1, "steps": 3}
SHARDED = DENSE | {"workers": {"fsdp": True}}
# what looks at the weights between steps: averages in their place, texts held out, samples, the best so far
LOOKED_AT = DENSE | {
    "ema": 0.9,
    "evaluation": {"every": 2, "samples": ["Text 7", ""], "sample_tokens": 6},
    "checkpoint": {"every": 3, "keep_latest_k": 9},
}


def values(**changes):
    return config(**changes).model_dump(mode="json")


def losses(folder):
    return [(line["step"], line["loss"]) for line in read_log(folder / "log.jsonl") if line["kind"] == "train"]


def same_losses(ours, theirs):
    ours, theirs = losses(ours), losses(theirs)
    assert [step for step, _ in ours] == [step for step, _ in theirs] == list(range(1, len(ours) + 1))
    assert [loss for _, loss in ours] == pytest.approx([loss for _, loss in theirs], rel=1e-6)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Every run of two processes, made by one pair of them, and those of one process to compare with."""
    folder = tmp_path_factory.mktemp("runs")
    torch.set_num_threads(1)
    text = folder / "texts.jsonl"
    text.write_text("".join(f'{{"text": "{f"Text {i} and more. " * (1 + i % 9)}"}}\n' for i in range(300)))
    looked_at = LOOKED_AT | {"data": {"source": "text", "text": {"paths": [str(text)]}}}
    for name, settings in (("dense", DENSE), ("experts", EXPERTS), ("uneven", UNEVEN), ("looked-at", looked_at)):
        train(config(**settings), folder / name)
    jobs = [
        ("dense-2", DENSE, 0),
        ("experts-2", EXPERTS, 0),
        ("uneven-2", UNEVEN, 0),
        ("sharded-2", SHARDED, 0),
        ("sharded-halves", SHARDED, 4),
        ("sharded-halves", SHARDED, 0),
        ("looked-at-sharded", looked_at | {"workers": {"fsdp": True}}, 0),
        ("looked-at-sharded-halves", looked_at | {"workers": {"fsdp": True}}, 4),
        ("looked-at-sharded-halves", looked_at | {"workers": {"fsdp": True}}, 0),
        ("halves", DENSE, 4),
        ("diverging-2", DENSE | {"optimizer": {"learning_rate": 1e30}, "schedule": {"warmup_steps": 0}, "steps": 3}, 0),
    ]
    run_group(folder / "store", 2, [(folder / name, values(**settings), stop) for name, settings, stop in jobs])
    return folder


@pytest.mark.parametrize("name", ["dense", "experts", "uneven"])
def test_two_processes_have_the_losses_of_one(runs, name):
    same_losses(runs / name, runs / f"{name}-2")
    ours, theirs = (read_log(runs / n / "log.jsonl")[-1] for n in (name, f"{name}-2"))
    assert ours["kind"] == theirs["kind"] == "eval" and ours["answer_loss"] == pytest.approx(
        theirs["answer_loss"], 1e-5
    )


def test_shares_of_a_model_learn_what_copies_do(runs):
    same_losses(runs / "dense-2", runs / "sharded-2")
    copies, shares = (load_file(runs / n / "model" / "model.safetensors") for n in ("dense-2", "sharded-2"))
    assert copies.keys() == shares.keys()
    for name, tensor in copies.items():
        torch.testing.assert_close(tensor, shares[name], rtol=0, atol=1e-5)
    trainer = json.loads((runs / "sharded-2" / "checkpoints" / "step-00000008" / "trainer.json").read_text())
    assert trainer["step"] == STEPS


def test_shares_stopped_and_continued_have_the_same_bits(runs):
    straight, halves = (
        (runs / name / "checkpoints" / "step-00000008" / "optimizer.safetensors").read_bytes()
        for name in ("sharded-2", "sharded-halves")
    )
    assert straight == halves


@pytest.mark.parametrize("shares", ["looked-at-sharded", "looked-at-sharded-halves"])
def test_averages_samples_and_texts_held_out_are_those_of_one_process(runs, shares):
    same_losses(runs / "looked-at", runs / shares)
    (ours, evaluations, samples), (theirs, there, said) = (
        (
            checkpoint.steps(runs / name / "checkpoints"),
            *([line for line in read_log(runs / name / "log.jsonl") if line["kind"] == k] for k in ("eval", "sample")),
        )
        for name in ("looked-at", shares)
    )
    assert samples == said and len(said) == 2 * STEPS // 2
    assert [line["step"] for line in evaluations] == [2, 4, 6, 8]
    for line, other in zip(evaluations, there, strict=True):
        assert line.pop("kind") == other.pop("kind")
        assert line == pytest.approx(other, rel=1e-6) and line["bits_per_byte"] > 0
    assert {path.name for path in ours} <= {path.name for path in theirs}
    for path in ours:
        for file in ("model.safetensors", "optimizer.safetensors"):
            expected, found = load_file(path / file), load_file(runs / shares / "checkpoints" / path.name / file)
            assert expected.keys() == found.keys() and any(name.endswith("/ema") for name in found) == ("opt" in file)
            for name, tensor in expected.items():
                torch.testing.assert_close(found[name], tensor, rtol=0, atol=1e-5, msg=f"{path.name} {name}")
    exported = [load_file(runs / name / "model" / "model.safetensors") for name in ("looked-at", shares)]
    for name, tensor in exported[0].items():
        torch.testing.assert_close(exported[1][name], tensor, rtol=0, atol=1e-5)


def test_what_two_processes_began_one_finishes(runs):
    assert losses(runs / "halves")[-1][0] == 4
    train(config(**DENSE), runs / "halves")
    same_losses(runs / "dense", runs / "halves")


def test_a_step_that_is_not_finite_is_left_out_by_all(runs):
    lines = [line for line in read_log(runs / "diverging-2" / "log.jsonl") if line["kind"] == "train"]
    assert [line["skipped"] for line in lines] == [False, True, True]


def test_rows_are_shared_whatever_their_number():
    rows = [list(range(10))[part] for rank in range(3) for part in passes(10, 2, rank, 3)]
    assert sorted(sum(rows, [])) == list(range(10))
    assert [len(passes(10, 2, rank, 3)) for rank in range(3)] == [2, 2, 2] and [] in rows
    assert passes(10, 4) == [slice(0, 4), slice(4, 8), slice(8, 10)]


def test_one_process_gets_back_what_it_gives():
    assert ALONE.sum(0.1, 2.0) == (0.1, 2.0) and ALONE.largest(3) == 3 and ALONE.broadcast("x") == "x" and ALONE.first
