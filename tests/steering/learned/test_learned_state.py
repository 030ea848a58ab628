"""A learned state: what is learned is what is applied, nothing else changes, and so for what it is compared with."""

from __future__ import annotations

import pytest
import torch
from model_zoo import nano
from mplat.core.errors import InputError, ToleranceError, UsageError
from mplat.steering import Recipe
from mplat.steering.learned import (
    Example,
    Rows,
    learn_lora,
    learn_prefix,
    learn_state,
    random_states,
    rank_for,
    rows_of,
    score,
    shuffled,
)
from mplat.steering.learned.descent import Budget, clearly_above, descend
from planted_models import talking

NAMES, PLACES = ("Zakdor", "Sisgat", "Pilgom", "Vasnar"), ("Nornik", "Karfen", "Rilnum")
PROMPTS = [f"{name} lives in {place}.\nQ: Where does {name} live?\nA:" for name in NAMES for place in PLACES]
EXAMPLES = [Example(prompt, " home") for prompt in PROMPTS]
LEARN, HELD_OUT = EXAMPLES[:8], EXAMPLES[8:]


@pytest.fixture(scope="module")
def model():
    return talking(gain=1.0)


@pytest.fixture(scope="module")
def learned(model):
    return learn_state(model, LEARN, HELD_OUT, steps=40, lr=0.1, unit="one", seed=1)


def steered(model, recipe):
    def forward(tokens, mask):
        with model.edit(*recipe.edits(model)):
            return model(tokens, mask)

    return forward


def test_what_is_learned_is_what_the_recipe_does(model, learned):
    rows = rows_of(model, HELD_OUT)
    before, after = score(model, rows), score(steered(model, learned.recipe), rows)
    development = dict(learned.descent.development)
    assert development[0] == before.nll and development[learned.descent.kept] == after.nll < before.nll
    assert after.nll == pytest.approx(float(sum(learned.descent.kept_losses)) / int((rows.labels >= 0).sum()))
    assert after.share > before.share == 0.0
    learned.recipe.check(model)


def test_half_of_it_lies_between_and_nothing_of_it_is_the_model_bit_for_bit(model, learned):
    rows = rows_of(model, HELD_OUT)
    nothing = learned.recipe.scaled(0.0)
    assert nothing.is_identity and nothing.edits(model) == []
    with torch.no_grad():
        assert torch.equal(steered(model, nothing)(rows.tokens, rows.mask), model(rows.tokens, rows.mask))
    nll = [score(steered(model, learned.recipe.scaled(share)), rows).nll for share in (0.0, 0.5, 1.0)]
    assert nll[0] > nll[1] > nll[2]


def test_the_weights_stay_as_they_are(model, learned):
    before, wanted = model.digest, [p.requires_grad for p in model.parameters()]
    learn_state(model, LEARN, HELD_OUT, steps=3)
    assert model.digest == before == learned.recipe.model_digest
    assert wanted == [p.requires_grad for p in model.parameters()] and all(p.grad is None for p in model.parameters())


def test_the_same_seed_gives_the_same_state_and_a_file_gives_it_back(model, learned, tmp_path):
    again = learn_state(model, LEARN, HELD_OUT, steps=40, lr=0.1, unit="one", seed=1).recipe
    assert again.digest == learned.recipe.digest
    assert learn_state(model, LEARN, HELD_OUT, steps=40, lr=0.1, unit="one", seed=2).recipe.digest != again.digest
    assert Recipe.load(again.save(tmp_path / "recipe.json"), model).digest == again.digest


def test_teacher_forcing_says_what_generation_says(model, learned):
    recipe = learn_state(model, LEARN, HELD_OUT, steps=60, lr=0.2, unit="one", dropout=0.0).recipe
    exact = score(steered(model, recipe), rows_of(model, EXAMPLES)).exact
    with model.edit(*recipe.edits(model)):
        said = model.generate(PROMPTS, max_new_tokens=4)
    assert exact.tolist() == [text == " home" for text in said] and exact.any()


def test_random_states_have_the_norm_and_nothing_else_of_the_learned_ones(learned):
    drawn = random_states(learned.recipe, 3)
    for part, other in zip(learned.recipe.parts, drawn.parts, strict=True):
        a, b = part.tensors["state"].double().flatten(), other.tensors["state"].double().flatten()
        assert float(a.norm()) == pytest.approx(float(b.norm()), rel=1e-5)
        if float(a.norm()):
            assert abs(float(a @ b / a.norm() ** 2)) < 0.5
    assert random_states(learned.recipe, 3).digest == drawn.digest != random_states(learned.recipe, 4).digest


def test_what_does_not_help_on_the_development_part_is_not_kept(model):
    against = [Example(e.prompt, " person") for e in HELD_OUT]
    rows = rows_of(model, against)
    found = learn_state(model, LEARN, against, steps=60, lr=0.3, unit="one")
    assert found.descent.development[-1][1] > min(nll for _, nll in found.descent.development)
    assert score(steered(model, found.recipe), rows).nll <= score(model, rows).nll


def test_the_step_that_is_kept_is_the_last_one_not_clearly_above_the_lowest():
    """Losses of four answers at each look: near the lowest but for one answer, which is noise; then clearly worse."""
    script = [(5.0, 5.0, 5.0, 5.0), (1.0, 1.0, 1.0, 1.0), (0.5, 0.5, 0.5, 2.6), (3.0, 3.1, 3.2, 3.3)]
    looks = iter(script)
    rows = Rows(torch.zeros(4, 1, dtype=torch.long), torch.ones(4, 1, dtype=torch.bool), torch.zeros(4, 1).long())

    def judging(tokens, mask):
        probability = torch.tensor(next(looks)).neg().exp()
        return torch.stack([probability, 1 - probability], -1).log()[:, None]

    parameter = torch.zeros(1, 1, 2, requires_grad=True)
    found = descend(
        [parameter], lambda _: lambda tokens, mask: parameter.expand(len(tokens), 1, 2), judging, rows, rows,
        Budget(steps=3, lr=0.1, every=1),
    )  # fmt: skip
    assert found.kept == 2 and found.kept_losses == pytest.approx(script[2], rel=1e-5)
    assert found.loss == pytest.approx(sum(script[2]) / 4, rel=1e-5)
    assert found.loss > min(nll for _, nll in found.development)
    for step, losses in enumerate(script):
        above = clearly_above(torch.tensor(losses), torch.tensor(script[1]))
        assert above == (step in (0, 3))


@pytest.mark.parametrize("arch", ["mamba", "mamba2", "striped_hyena"])
def test_steps_are_in_multiples_of_what_the_state_is_after_the_examples(arch):
    model = nano(arch, dtype=torch.float32, vocab_size=1024)
    model.tokenizer = talking().tokenizer
    rows = rows_of(model, LEARN)
    with torch.no_grad():
        _, after = model(rows.tokens, rows.mask, return_state=True)
    once = learn_state(model, LEARN, HELD_OUT, steps=1, lr=2.0, dropout=0.0, batch_size=len(LEARN)).recipe
    moved = 0
    for part in once.parts:
        key = {"mixer.h_init": "h", "mixer.conv_init": "conv"}[part.site]
        size = after.layers[part.layers[0]][key].flatten(1, -2).square().mean(0).sqrt()
        step = part.tensors["state"].abs()
        assert bool((step <= 0.2 * size * 1.001).all())  # the first step of Adam, at a tenth of the rate
        moved += int((step > 0.19 * size).sum())
    assert moved > 100


def test_every_layer_with_a_state_takes_part_or_those_that_are_named(model, learned):
    assert [part.full_sites()[0] for part in learned.recipe.parts] == [
        f"blocks.{layer}.mixer.{name}" for layer in range(3) for name in ("h_init", "conv_init")
    ]
    one = learn_state(model, LEARN, HELD_OUT, steps=1, layers=[2]).recipe
    assert {part.layers for part in one.parts} == {(2,)}
    with pytest.raises(UsageError, match=r"layer 7 of .* has no recurrent state; layers with one: \[0, 1, 2\]"):
        learn_state(model, LEARN, HELD_OUT, layers=[7])


@pytest.mark.parametrize("arch", ["mamba2", "dense_mamba", "moe_mamba", "stable_mamba", "striped_hyena"])
def test_every_architecture_with_a_state_can_learn_one(arch):
    model = nano(arch, dtype=torch.float32, vocab_size=1024)
    model.tokenizer = talking().tokenizer
    found = learn_state(model, LEARN, HELD_OUT, steps=12, lr=0.1, unit="one", dropout=0.0)
    assert found.descent.kept > 0 and found.descent.development[-1][1] < found.descent.development[0][1]
    with torch.no_grad(), model.edit(*found.recipe.edits(model)):
        assert torch.isfinite(model(rows_of(model, HELD_OUT).tokens)).all()


def test_a_model_without_a_recurrent_state_is_refused():
    with pytest.raises(UsageError, match="has no recurrent state that could be learned"):
        learn_state(nano("hyena"), LEARN, HELD_OUT)


def test_exchanged_answers_are_another_prompts_and_the_same_in_all():
    examples = [Example(f"prompt {i}", f" answer {i}") for i in range(9)]
    turned = shuffled(examples, 0)
    assert [e.prompt for e in turned] == [e.prompt for e in examples]
    assert all(a.answer != b.answer for a, b in zip(turned, examples, strict=True))
    assert {e.answer for e in turned} == {e.answer for e in examples} and turned == shuffled(examples, 0)


def test_only_answers_are_judged_and_padding_changes_nothing(model):
    rows = rows_of(model, EXAMPLES)
    ids = [model.tokenizer(e.prompt + e.answer + "\n").input_ids for e in EXAMPLES]
    for tokens, labels, expected in zip(rows.tokens, rows.labels, ids, strict=True):
        assert tokens[: len(expected)].tolist() == expected
        judged = (labels != -100).nonzero().flatten()
        assert labels[judged].tolist() == expected[int(judged[0]) + 1 :] and len(judged) == 2
    alone = [score(model, rows_of(model, [e])).nll for e in EXAMPLES]
    assert score(model, rows).nll == pytest.approx(sum(alone) / len(alone), rel=1e-5)


def test_a_lora_has_the_numbers_of_its_rank_and_its_copy_says_the_same(model):
    rank = rank_for(model, 4000)
    lora = learn_lora(model, LEARN, HELD_OUT, rank=rank, steps=20, lr=0.02)
    assert lora.descent.parameters <= 4000 < lora.descent.parameters * (rank + 1) / rank
    rows, before = rows_of(model, HELD_OUT), model.digest
    copy = lora.merged(model)
    with torch.no_grad():
        assert torch.allclose(lora.forward(model)(rows.tokens, rows.mask), copy(rows.tokens, rows.mask), atol=1e-5)
    assert score(copy, rows).nll < score(model, rows).nll
    assert model.digest == before != copy.digest


def test_a_prefix_is_read_like_tokens_before_the_text(model):
    from mplat.models import Replace

    prefix = learn_prefix(model, LEARN, HELD_OUT, length=5, steps=20, lr=0.05)
    rows = rows_of(model, HELD_OUT)
    assert prefix.descent.parameters == 5 * 32
    assert score(prefix.forward(model), rows).nll < prefix.descent.development[0][1]
    longer = torch.cat([torch.zeros(len(rows.tokens), 5, dtype=torch.long), rows.tokens], 1)
    with torch.no_grad(), model.edit(Replace("embed", prefix.vectors, positions=range(5))):
        whole = model(longer)[:, 5:]
    with torch.no_grad():
        behind = prefix.forward(model)(rows.tokens, rows.mask)
    assert torch.allclose(whole[rows.mask], behind[rows.mask], atol=1e-4)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "at least 1"),
        ({"unit": "rsm"}, "did you mean"),
        ({"lr": 0.0}, "learning rate"),
        ({"dropout": 1.0}, "dropout is a share"),
    ],
)
def test_values_that_cannot_be(model, options, message):
    with pytest.raises(UsageError, match=message):
        learn_state(model, LEARN, HELD_OUT, **options)


def test_no_examples_and_a_loss_that_is_not_finite_are_errors(model):
    with pytest.raises(InputError, match="no example"):
        learn_state(model, [], HELD_OUT)
    with pytest.raises(ToleranceError, match="the loss is not finite at step"):
        learn_state(model, LEARN, HELD_OUT, steps=40, lr=1e30)
