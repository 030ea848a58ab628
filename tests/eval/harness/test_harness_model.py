"""The harness's model class `mplat` against the harness's own class for Hugging Face models, on the same weights.

Skipped, saying so, where lm-evaluation-harness or accelerate, which its class needs, is not installed.
"""

from __future__ import annotations

import json
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import pytest
import torch
import zstandard
from mplat.core.errors import InputError, UsageError
from mplat.datasets import facts
from mplat.models import Scale, load
from mplat.steering import Recipe
from recipes import scaled

pytest.importorskip("lm_eval", reason="lm-evaluation-harness is not installed (extra lm-eval)")
pytest.importorskip("accelerate", reason="accelerate, which the harness's own class needs, is not installed")

from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from lm_eval.tasks import TaskManager
from mplat.eval.harness.harness_model import HarnessModel

QUESTIONS = facts.prompts(per_level=1, shots=2)
MODELS = ["tiny-mamba", "tiny-mamba2"]  # where there are lengths, each of both is tried once


def requests(kind: str, *arguments: tuple[Any, ...]) -> list[Instance]:
    return [Instance(kind, {}, each, 0) for each in arguments]


@pytest.fixture(scope="module", params=MODELS)
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[HFLM, HarnessModel]:
    """The harness's class and ours on the same weights."""
    folder = tmp_path_factory.mktemp(request.param)
    load(request.param).save(folder)
    theirs = HFLM(pretrained=str(folder), device="cpu", dtype="float32", batch_size=4)
    return theirs, HarnessModel(request.param, batch_size=4)


def cut_at(pair: tuple[HFLM, HarnessModel], max_length: int) -> tuple[HFLM, HarnessModel]:
    theirs, ours = pair
    theirs._max_length = ours.max_length = max_length
    return theirs, ours


CONTINUATIONS = requests(
    "loglikelihood",
    *((q.prompt, answer) for q in QUESTIONS for answer in (f" {q.answers[0]}", " Bob", " Bob and then Ann")),
    ("", " The end of it"),
    ("", "<|endoftext|> again"),
    (" a prompt that ends with blanks  ", "word"),
    ("<|endoftext|> begins with it", " too"),
)


@pytest.mark.parametrize(("pair", "max_length"), [("tiny-mamba", 2048), ("tiny-mamba2", 24)], indirect=["pair"])
def test_likelihoods_are_those_of_the_harness(pair, max_length):
    theirs, ours = cut_at(pair, max_length)
    expected = theirs.loglikelihood(CONTINUATIONS, disable_tqdm=True)
    found = ours.loglikelihood(CONTINUATIONS, disable_tqdm=True)
    assert [total for total, _ in found] == pytest.approx([total for total, _ in expected], abs=1e-4)
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]


def test_some_answers_are_greedy_and_some_are_not(pair):
    _, ours = cut_at(pair, 2048)
    assert {greedy for _, greedy in ours.loglikelihood(CONTINUATIONS, disable_tqdm=True)} == {True, False}


@pytest.mark.parametrize(
    ("pair", "max_length"), [("tiny-mamba", 2048), ("tiny-mamba2", 24), ("tiny-mamba", 5)], indirect=["pair"]
)
def test_rolling_windows_are_those_of_the_harness(pair, max_length):
    theirs, ours = cut_at(pair, max_length)
    texts = requests("loglikelihood_rolling", *((text,) for text in ("", " Ann", *(q.prompt for q in QUESTIONS[:1]))))
    expected = theirs.loglikelihood_rolling(texts, disable_tqdm=True)
    assert ours.loglikelihood_rolling(texts) == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(("pair", "max_length"), [("tiny-mamba2", 2048), ("tiny-mamba", 40)], indirect=["pair"])
def test_generated_texts_are_those_of_the_harness(pair, max_length):
    theirs, ours = cut_at(pair, max_length)
    asked = requests(
        "generate_until",
        *((q.prompt, {"until": ["\n", " and", "Q:"], "max_gen_toks": 10}) for q in QUESTIONS),
        *((q.prompt, {"until": ["never said"], "max_gen_toks": 16, "do_sample": False}) for q in QUESTIONS[:3]),
        *((q.prompt, {"until": "a", "max_new_tokens": 4}) for q in QUESTIONS[:2]),
    )
    expected = theirs.generate_until(asked, disable_tqdm=True)
    assert ours.generate_until(asked) == expected
    assert any("\n" in text for text in expected)


def lambada(folder: Path, texts: list[str]) -> TaskManager:
    """The harness's LAMBADA task over a file, its figures included."""
    (folder / "lambada.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts))
    (folder / "lambada.yaml").write_text(
        f"""
task: lambada_file
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder / "lambada.jsonl"}}}, cache_dir: {folder / "cache"}}}
output_type: loglikelihood
test_split: test
doc_to_text: "{{{{text.split(' ')[:-1]|join(' ')}}}}"
doc_to_target: "{{{{' '+text.split(' ')[-1]}}}}"
metric_list:
  - {{metric: perplexity, aggregation: perplexity, higher_is_better: false}}
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
"""
    )
    return TaskManager(include_path=str(folder), include_defaults=False)


def figures(model: Any, tasks: TaskManager) -> dict[str, Any]:
    found: Any = simple_evaluate(model=model, tasks=["lambada_file"], task_manager=tasks, bootstrap_iters=0)
    return found["results"]["lambada_file"]


@pytest.mark.slow
def test_a_task_of_the_harness_gives_the_same_figures(pair, tmp_path, shared_data):
    path = shared_data / "lambada/lambada_openai_test.jsonl.zst"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    lines = zstandard.ZstdDecompressor().stream_reader(path.read_bytes()).read().decode().split("\n")[:12]
    known = [f"{q.prompt} {q.answers[0]}" for q in QUESTIONS]  # which the shipped models can answer
    tasks = lambada(tmp_path, [*(json.loads(line)["text"] for line in lines), *known])
    theirs, ours = cut_at(pair, 2048)
    expected, found = figures(theirs, tasks), figures(ours, tasks)
    assert 0 < expected["acc,none"] == found["acc,none"] < 1
    assert found["perplexity,none"] == pytest.approx(expected["perplexity,none"], rel=1e-4)


# -- what the harness's class has no part in ------------------------------------------------------------------------


def saved(recipe: Recipe, folder: Path) -> str:
    return str(recipe.save(folder / "recipe.json"))


@pytest.mark.parametrize("strength", [1.0, 6.0])
def test_a_recipe_is_applied_as_its_edits(tmp_path, strength):
    model = load("tiny-mamba")
    steered = HarnessModel(model, recipe=saved(scaled(model, (0, 1, 2, 3), strength, 2), tmp_path))
    plain = HarnessModel(model)
    asked = CONTINUATIONS[:6]
    found = steered.loglikelihood(asked, disable_tqdm=True)
    with model.edit(Scale("blocks.2.mixer_out", strength, channels=(0, 1, 2, 3))):
        expected = plain.loglikelihood(asked, disable_tqdm=True)
    assert found == expected
    assert (found == plain.loglikelihood(asked, disable_tqdm=True)) == (strength == 1.0)
    assert not model.edits


@pytest.mark.parametrize("how", [{"phase": "prefill"}, {"phase": "decode"}, {"positions": (0, -1)}])
def test_phase_and_numbered_positions_of_a_recipe_are_kept(tmp_path, how):
    model = load("tiny-mamba")
    steered = HarnessModel(model, recipe=saved(scaled(model, tuple(range(64)), -8.0, 2, **how), tmp_path))
    plain = HarnessModel(model)
    likely = requests("loglikelihood", *((q.prompt, " Bob and Ann") for q in QUESTIONS[:3]))
    written = requests("generate_until", *((q.prompt, {"until": ["no"], "max_gen_toks": 5}) for q in QUESTIONS[:3]))
    found = steered.loglikelihood(likely, disable_tqdm=True), steered.generate_until(written)
    with model.edit(Scale("blocks.2.mixer_out", -8.0, channels=range(64), **how)):
        assert found == (plain.loglikelihood(likely, disable_tqdm=True), plain.generate_until(written))
    assert found[0] != plain.loglikelihood(likely, disable_tqdm=True)


@pytest.mark.parametrize(("positions", "batch_size"), [("prompt", 3), ("last", 1), ("last", 3), ("generated", 3)])
def test_positions_are_those_of_each_prompt(tmp_path, positions, batch_size):
    """By hand: one prompt after the other, with the edit at its own positions."""
    model = load("tiny-mamba")
    recipe = scaled(model, tuple(range(64)), -8.0, 2, positions=positions)
    steered = HarnessModel(model, recipe=saved(recipe, tmp_path), batch_size=batch_size)
    plain = HarnessModel(model)
    contexts = [q.prompt for q in QUESTIONS[:4]]
    likely = requests("loglikelihood", *((c, text) for c in contexts for text in (" Bob and Ann", " Bob")))
    written = requests("generate_until", *((c, {"until": ["never said"], "max_gen_toks": 5}) for c in contexts))
    found = steered.loglikelihood(likely, disable_tqdm=True), steered.generate_until(written)
    for i, context in enumerate(contexts):
        n = len(plain.tok_encode(context))
        where = {"prompt": range(n), "last": [n - 1], "generated": range(n, n + 9)}[positions]
        for j in (2 * i, 2 * i + 1):
            prompt, continuation = plain._encode_pair(*likely[j].args)
            text = torch.tensor([[*prompt, *continuation[:-1]]])
            inside = [p for p in where if p < text.shape[1]]
            edit = Scale("blocks.2.mixer_out", -8.0, channels=range(64), positions=inside)
            with torch.no_grad(), model.edit(edit) if inside else nullcontext():
                scores = model(text)[0, n - 1 :].log_softmax(-1)
            total = scores.gather(1, torch.tensor(continuation)[:, None]).sum()
            assert found[0][j][0] == pytest.approx(float(total), abs=1e-3)
        with model.edit(Scale("blocks.2.mixer_out", -8.0, channels=range(64), positions=list(where))):
            assert plain.generate_until([written[i]]) == [found[1][i]]
    assert found[0] != plain.loglikelihood(likely, disable_tqdm=True)


@pytest.mark.parametrize("positions", ["evidence", "question"])
def test_a_recipe_for_places_that_a_request_does_not_name_is_refused(tmp_path, positions):
    model = load("tiny-mamba")
    with pytest.raises(UsageError, match=f"steers at {positions}"):
        HarnessModel(model, recipe=saved(scaled(model, positions=positions), tmp_path))


def test_what_cannot_be_done_is_refused(tmp_path):
    model = load("tiny-mamba")
    ours = HarnessModel(model)
    with pytest.raises(UsageError, match="no option 'num_beams'"):
        ours.generate_until(requests("generate_until", (" a", {"until": ["\n"], "num_beams": 4})))
    with pytest.raises(UsageError, match="no room for a context"):
        ours.generate_until(requests("generate_until", (" a", {"until": ["\n"], "max_gen_toks": 2048})))
    with pytest.raises(InputError, match="needs 1 to 2048"):
        ours.loglikelihood(requests("loglikelihood", (" a", "")), disable_tqdm=True)
    with pytest.raises(UsageError, match="batch_size must be a whole number"):
        HarnessModel(model, batch_size="many")
    other = saved(scaled(load("tiny-mamba2")), tmp_path)
    with pytest.raises(InputError, match="found on the model with digest"):
        HarnessModel(model, recipe=other)
    with torch.no_grad():
        model.backbone.norm_f.weight.fill_(float("nan"))
    with pytest.raises(InputError, match="scores are not finite after ' a'"):
        ours.generate_until(requests("generate_until", (" a", {"until": ["\n"], "max_gen_toks": 4})))


def test_the_harness_finds_the_class_by_its_name_and_the_record_names_model_and_recipe(tmp_path):
    from lm_eval.api.registry import get_model

    made = get_model("mplat").create_from_arg_string("pretrained=tiny-mamba,max_length=64", {"batch_size": 2})
    assert isinstance(made, HarnessModel) and (made.max_length, made.batch_size) == (64, 2)
    assert made.get_model_info()["model_sha"] == made.model.digest and made.get_model_info()["recipe_digest"] is None
