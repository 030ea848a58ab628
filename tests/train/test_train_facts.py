"""Training on the facts world: the right tokens carry the loss, the curriculum follows the steps, and it learns."""

import math

import pytest
import torch
from mplat.core.errors import InputError, UsageError
from mplat.datasets import facts
from mplat.datasets.tokens.tokenizer import open_tokenizer
from mplat.runtime.stop import StopRequest
from mplat.train.checkpoint_writer import CheckpointWriter
from mplat.train.data import open_source
from mplat.train.loop import Run
from mplat.train.run_folder import RunFolder
from mplat.train.setup import prepare
from mplat.train.sources.facts import Prompt, score_answers
from train_runs import Recorder, config, small_model


def test_batches_weigh_answers_context_and_nothing_unannounced(tmp_path):
    run = config(sequence_length=160, data={"facts": {"answer_weight": 3.0, "context_weight": 0.5}})
    batch = open_source(run, tmp_path).batch(2)
    made = facts.training_batch(3, 2, 4, 160, facts.Difficulty.at(2 / 6), open_tokenizer(None)[1].folder, 3.0, 0.5)
    assert torch.equal(batch.tokens, torch.from_numpy(made.tokens))
    assert torch.equal(batch.weights, torch.from_numpy(made.weights))
    assert batch.answers is not None and torch.equal(batch.answers, batch.weights == 3.0)
    starts = batch.reset[:, 1:]
    assert starts.any() and (batch.weights[starts] == 0).all()
    assert sorted(batch.weights.unique().tolist()) == [0.0, 0.5, 3.0]


@pytest.mark.parametrize(("curriculum", "step", "progress"), [(1.0, 30, 0.3), (0.5, 30, 0.6), (0.5, 80, 1), (0, 0, 1)])
def test_difficulty_follows_the_steps(tmp_path, curriculum, step, progress):
    run = config(steps=100, data={"facts": {"curriculum": curriculum}})
    source = open_source(run, tmp_path)
    made = facts.training_batch(3, step, 4, 48, facts.Difficulty.at(progress), open_tokenizer(None)[1].folder)
    assert torch.equal(source.batch(step).tokens, torch.from_numpy(made.tokens))


def test_an_answer_counts_where_greedy_decoding_would_write_it(tmp_path):
    """Teacher forcing and generation agree, on answers that the model gives and on those it does not."""
    model = small_model(dtype=torch.float32)
    with torch.no_grad():
        model.backbone.embeddings.weight.mul_(30)
    prompts = [[3, 5, 7], [11] * 9, [2, 4], [39, 1, 0, 8]]
    greedy = model.generate(prompts, max_new_tokens=3, stop=[])
    right = [Prompt(1, p, g) for p, g in zip(prompts, greedy, strict=True)]
    wrong = [Prompt(1, p, [*g[:2], (g[2] + 1) % 40]) for p, g in zip(prompts, greedy, strict=True)]
    got = score_answers(model, right + wrong)
    assert [exact for _, exact, _ in got] == [True] * 4 + [False] * 4
    for prompt, _, loss in got:
        logits = model(torch.tensor([prompt.context + prompt.answer])).log_softmax(-1)[0, -4:-1]
        expected = -logits[range(3), prompt.answer].mean().item()
        assert loss == pytest.approx(expected, abs=1e-5)


def test_evaluation_prompts_are_the_questions_with_their_answers(tmp_path):
    source = open_source(config(evaluation={"prompts_per_level": 3}), tmp_path)
    encoder, _ = open_tokenizer(None)
    prompts = source.prompts()  # type: ignore[attr-defined]
    questions = facts.prompts(per_level=3, seed=0, split="eval", stream="train-evaluation")
    assert [(p.level, encoder.decode(p.context + p.answer)) for p in prompts] == [
        (q.level, f"{q.prompt} {q.answers[0]}\n") for q in questions
    ]


def test_evaluation_reports_every_level_and_is_repeatable(tmp_path):
    source = open_source(config(evaluation={"prompts_per_level": 2, "batch_size": 5}), tmp_path)
    run = prepare(config(), RunFolder(tmp_path), dry_run=True)
    model = run.build_model()
    first, second = source.evaluate(model), source.evaluate(model)
    assert first == second
    assert first.metrics.keys() == {*(f"exact_match_level_{i}" for i in range(1, 7)), "exact_match", "answer_loss"}
    assert first.metrics["answer_loss"] == pytest.approx(math.log(1024), rel=0.05)


@pytest.mark.slow
@pytest.mark.parametrize("arch", ["mamba", "mamba2"])
def test_a_nano_model_learns_one_batch_by_heart(tmp_path, arch):
    run_config = config(
        steps=100, sequence_length=64, model={"arch": arch}, optimizer={"learning_rate": 0.01, "weight_decay": 0.0},
        schedule={"warmup_steps": 5, "floor": 0.001},
    )  # fmt: skip
    setup = prepare(run_config, RunFolder(tmp_path), dry_run=True)
    with CheckpointWriter(tmp_path / "checkpoints") as writer:
        run = Run(setup, RunFolder(tmp_path), Recorder(), StopRequest(), writer)
        batch = setup.source.batch(0)
        losses = [run.train_step(batch).answer_loss for _ in range(run_config.total_steps)]
    assert losses[0] == pytest.approx(math.log(1024), rel=0.1)
    assert losses[-1] is not None and losses[-1] < 0.05


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"model": {"arch": "mamba3"}}, UsageError, "there is no architecture 'mamba3'.*did you mean 'mamba"),
        ({"model": {"size": "tinny"}}, UsageError, "unknown size 'tinny'; did you mean 'tiny'"),
        ({"model": {"options": {"state_sise": 8}}}, UsageError, "did you mean 'state_size'"),
        ({"model": {"vocab_size": 512}}, InputError, "has 1024 tokens but model.vocab_size is 512"),
        ({"data": {"source": "fact"}}, UsageError, "did you mean 'facts'"),
        ({"data": {"tokenizer": "/nowhere"}}, InputError, "/nowhere/tokenizer.json: cannot be read"),
        ({"device": "cuda:99"}, UsageError, "device 'cuda:99' is not here"),
    ],
)
def test_mistakes_are_found_before_anything_is_written(tmp_path, changes, error, message):
    from mplat.train import train

    with pytest.raises(error, match=message):
        train(config(**changes), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokens": "1M"}, "steps or tokens, not both"),
        ({"micro_batch_size": 3}, "not a multiple of micro_batch_size"),
        ({"schedule": {"floor": 1.0}}, "floor is above"),
        ({"schedule": {"warmup_steps": 7}}, "more than the run's 6 steps"),
        ({"optimizer": {"betas": (0.9, 1.0)}}, "betas"),
        ({"threads": 0}, "threads"),
    ],
)
def test_configurations_that_contradict_themselves_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)
