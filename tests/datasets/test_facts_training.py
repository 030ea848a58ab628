"""Training texts are answerable and seeded; a packed batch is exactly their tokenization."""

import hashlib
import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mplat.core.errors import InputError, UsageError
from mplat.datasets.facts import Difficulty, training_batch, training_text
from mplat.datasets.facts.names import entities
from mplat.datasets.tokenizer import SHIPPED
from tokenizers import Tokenizer

TOKENIZER = Tokenizer.from_file(str(SHIPPED / "tokenizer.json"))


def documents(batch, row):
    """(start, tokens) of each document of a row, the cut one last."""
    starts = [*np.flatnonzero(batch.reset[row]), batch.tokens.shape[1]]
    return [(int(a), batch.tokens[row, a:b].tolist()) for a, b in zip(starts, starts[1:], strict=False)]


def test_format_and_answer_spans():
    for i in range(300):
        text, spans = training_text(1, i, Difficulty.at((i % 5) / 4))
        facts, rest = text.split("\n", 1)
        assert facts.endswith(".") and text.endswith("\n")
        asked = re.findall(r"(Q: [^\n]+\?\nA:| [^\n]+?)( (?:\w+|\w+ \w+)\n)", rest)
        assert re.fullmatch(r"(Q: [^\n]+\?\nA: [^\n]+\n| [^\n]+\n)+", rest)
        answers = [text[a:b] for a, b in spans]
        assert len(answers) == len(re.sub(r"(?m)^Q:.*\n", "", rest).splitlines()) >= 1
        assert all(answer[0] == " " and answer[-1] == "\n" and answer.strip() in facts for answer in answers)
        questions = [q for q, _ in asked if q.startswith("Q:")]
        assert len(set(questions)) == len(questions)


NAMES = {name for kind in entities("train").values() for name in kind}


def bare_pair(line):
    """(subject, object) of " Velmor Kartis", None for a sentence."""
    words = line.split()
    splits = [(" " + " ".join(words[:i]), " " + " ".join(words[i:])) for i in range(1, len(words))]
    return next((pair for pair in splits if NAMES.issuperset(pair)), None)


def test_the_first_texts_are_bare_pairs_each_asked_by_its_name():
    for i in range(300):
        first, *asked = training_text(4, i, Difficulty.at(0.0)).text.splitlines()
        pairs = dict(filter(None, (bare_pair(fact) for fact in first.split("."))))
        assert asked
        for line in asked:
            if bare := bare_pair(line):
                assert pairs[bare[0]] == bare[1]


def test_a_bare_pair_has_one_reading():
    for i in range(800):
        first, *asked = training_text(6, i, replace(Difficulty(2, 8, 8), bare=0.7)).text.splitlines()
        for subject, _ in filter(None, map(bare_pair, asked)):
            opening = rf" ?(The )?((home|boss|friend|thing|place) of (the )?)?{subject.strip()}\b"
            stated = [fact for fact in first.split(".") if re.match(opening, fact)]
            assert len(stated) == 1, (first, subject)


def test_bare_forms_make_room_for_sentences():
    shares = [np.mean(["Q:" in training_text(8, i, Difficulty.at(p)).text for i in range(200)]) for p in (0, 0.08, 0.2)]
    assert shares[0] == 0 and shares[1] > 0.5 and shares[2] > 0.9
    assert Difficulty.at(0.15).bare == 0 < Difficulty.at(0.14).bare < Difficulty.at(0.05).bare < Difficulty.at(0).bare


def test_most_texts_open_with_a_blank_and_some_without():
    bare = sum(not training_text(2, i, Difficulty()).text.startswith(" ") for i in range(2000)) / 2000
    assert 0.09 < bare < 0.16


def test_numbers_of_facts_and_questions_stay_in_their_limits():
    difficulty = Difficulty(min_facts=3, max_facts=7, n_questions=4)
    counts = [training_text(0, i, difficulty).text for i in range(400)]
    assert {text.split("\n")[0].count(".") for text in counts} == {3, 4, 5, 6, 7}
    assert max(text.count("Q:") for text in counts) == 4


def hops_asked(difficulty, count=600):
    """Shares of 1-, 2- and 3-hop questions, read off the nouns and verbs of each question."""
    words = r"home|live|boss|work|friend|own(?:s|ed)?\b|'s thing|kept|place of"
    found = np.zeros(4)
    for i in range(count):
        for question in re.findall(r"Q: ([^\n]+)", training_text(9, i, difficulty).text):
            found[len(re.findall(words, question))] += 1
    assert found[0] == 0
    return found[1:] / found.sum()


def test_hop_weights_zero_means_never():
    assert hops_asked(Difficulty(1, 16, 6, (1, 0, 0))).tolist() == [1, 0, 0]
    assert hops_asked(Difficulty(2, 16, 6, (1, 1, 0)))[2] == 0


def test_default_mix_has_many_chains():
    one, two, three = hops_asked(Difficulty())
    assert 0.45 < one < 0.62 and 0.28 < two < 0.4 and 0.08 < three < 0.2


def test_a_block_too_small_for_the_hops_wanted_still_asks():
    assert training_text(0, 0, Difficulty(1, 1, 6, (0, 0, 1))).text.count("Q:") == 1


def test_texts_are_pure_functions_of_seed_and_index():
    difficulty = Difficulty()
    assert training_text(3, 8, difficulty) == training_text(3, 8, difficulty)
    texts = {training_text(seed, i, difficulty).text for seed in range(3) for i in range(200)}
    assert len(texts) == 600


def test_text_distribution_is_the_one_that_the_shipped_models_saw():
    digest = hashlib.sha256()
    for i in range(2000):
        text = training_text(0, i, Difficulty.at((i % 11) / 10))
        digest.update(repr((text.text, text.answer_spans)).encode())
    assert digest.hexdigest() == "fed0d0c649431137f93d84ef9fc8bfb1812bda0c9a8ef3fd5eb69142fd26f45f"


def test_curriculum_rises_from_bare_pairs_to_full():
    first, last = Difficulty.at(0.0), Difficulty.at(0.5)
    assert (first.min_facts, first.max_facts, first.hop_weights, first.bare) == (2, 4, (1.0, 0.0, 0.0), 1.0)
    assert (last.min_facts, last.max_facts, last.bare) == (1, 16, 0.0)
    assert last.hop_weights == pytest.approx((0.45, 0.35, 0.2))
    assert Difficulty.at(1.0) == last == Difficulty(hop_weights=last.hop_weights)
    steps = [Difficulty.at(p / 100).max_facts for p in range(51)]
    assert steps == sorted(steps) and max(np.diff(steps)) <= 1


def test_blocks_repeat_a_relation_so_that_only_the_name_tells_facts_apart():
    alike = []
    for i in range(400):
        text = training_text(2, i, Difficulty(4, 4, 8, (1, 0, 0))).text
        alike.append(len(set(re.findall(r"home|lives|boss|works|friend|kept", text.split("\n")[0]))) <= 2)
    assert np.mean(alike) > 0.5


def test_easy_blocks_stay_in_the_mix_at_the_end():
    facts = [training_text(0, i, Difficulty.at(1.0)).text.split("\n")[0].count(".") for i in range(1000)]
    assert np.mean(np.array(facts) <= 4) > 0.25
    assert np.mean(np.array(facts) >= 10) > 0.25


@pytest.mark.parametrize(
    "arguments",
    [dict(min_facts=0), dict(min_facts=5, max_facts=4), dict(max_facts=17), dict(n_questions=0), dict(repeat=1.5),
     dict(bare=1.5), dict(restate=-0.1),
     dict(hop_weights=(0, 0, 0)), dict(hop_weights=(1, -1, 1)), dict(hop_weights=(1, 1)),
     dict(hop_weights=(float("nan"), 1, 1))],
)  # fmt: skip
def test_impossible_difficulties_are_refused(arguments):
    with pytest.raises(UsageError):
        Difficulty(**arguments)


@pytest.mark.parametrize("progress", [-0.1, 1.1, float("nan")])
def test_progress_lies_between_0_and_1(progress):
    with pytest.raises(UsageError, match="progress"):
        Difficulty.at(progress)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**40), st.integers(0, 10**6), st.sampled_from([1, 7, 64, 300]), st.floats(0, 1))
def test_batch_is_the_tokenization_of_texts(seed, step, length, progress):
    batch = training_batch(seed, step, 3, length, Difficulty.at(progress), SHIPPED)
    assert batch.tokens.shape == batch.reset.shape == (3, length + 1) and batch.weights.shape == (3, length)
    assert (batch.tokens.dtype, batch.weights.dtype, batch.reset.dtype) == (np.int64, np.float32, np.bool_)
    for row in range(3):
        assert batch.reset[row, 0]
        found = documents(batch, row)
        for _, ids in found[:-1]:
            assert ids[-1] == 0 and 0 not in ids[:-1]
            text = TOKENIZER.decode(ids[:-1], skip_special_tokens=False)
            assert re.fullmatch(r"[^\n]+\.\n(Q: [^\n]+\?\nA: [^\n]+\n| [^\n]+\n)+", text)
            assert TOKENIZER.encode(text).ids == ids[:-1]


def test_only_answers_have_full_weight():
    batch = training_batch(5, 2, 8, 256, Difficulty(restate=0.0), SHIPPED, answer_weight=2.0, context_weight=0.25)
    for row in range(8):
        for start, ids in documents(batch, row)[:-1]:
            encoding = TOKENIZER.encode(TOKENIZER.decode(ids[:-1]))
            text = TOKENIZER.decode(ids[:-1])
            spans = [match.span(1) for match in re.finditer(r"A:( [^\n]+\n)", text)]
            expected = [2.0 if any(a <= s and e <= b for a, b in spans) else 0.25 for s, e in encoding.offsets]
            expected[0] = 0.0  # nothing announces the first token of a document
            actual = np.concatenate([[0.0], batch.weights[row]])[start : start + len(ids)]
            assert actual.tolist() == [*expected, 0.25]


def test_batches_are_seeded_by_row():
    one = training_batch(1, 2, 4, 128, Difficulty(), SHIPPED)
    same = training_batch(1, 2, 6, 128, Difficulty(), str(SHIPPED))
    assert (one.tokens == same.tokens[:4]).all() and (one.weights == same.weights[:4]).all()
    rows = {training_batch(s, t, 4, 128, Difficulty(), SHIPPED).tokens[r].tobytes()
            for s in (1, 2) for t in (0, 1) for r in range(4)}  # fmt: skip
    assert len(rows) == 16


def test_missing_tokenizer_is_named(tmp_path):
    with pytest.raises(InputError, match="tokenizer.json"):
        training_batch(0, 0, 1, 8, Difficulty(), tmp_path)


@pytest.mark.parametrize(("rows", "length"), [(0, 8), (1, 0)])
def test_empty_batches_are_refused(rows, length):
    with pytest.raises(UsageError):
        training_batch(0, 0, rows, length, Difficulty(), SHIPPED)


def test_noise_changes_words_between_names_and_nothing_else():
    hard = Difficulty.at(1.0)
    words = NAMES | {name[1:] for name in NAMES}
    changed = 0
    for step in range(20):
        plain = TOKENIZER.decode(training_batch(3, step, 1, 400, hard, SHIPPED).tokens[0], skip_special_tokens=False)
        batch = training_batch(3, step, 1, 400, hard, SHIPPED, shape_noise=0.3)
        noisy = TOKENIZER.decode(batch.tokens[0].tolist(), skip_special_tokens=False)
        pattern = re.compile("|".join(sorted(map(re.escape, words), key=len, reverse=True)) + r"|[.?\n]|Q:|A:")
        kept, found = pattern.findall(plain), pattern.findall(noisy)
        n = min(len(kept), len(found)) - 10
        assert n > 30 and found[:n] == kept[:n], "names, cues and punctuation stay, in their order"
        changed += noisy[:200] != plain[:200]
    assert changed > 15


def test_without_noise_nothing_is_drawn_and_a_share_lies_between_0_and_1():
    plain = training_batch(5, 1, 2, 128, Difficulty(), SHIPPED)
    same = training_batch(5, 1, 2, 128, Difficulty(), SHIPPED, shape_noise=0.0)
    assert (plain.tokens == same.tokens).all() and (plain.weights == same.weights).all()
    for share in (-0.1, 1.5):
        with pytest.raises(UsageError, match="shape_noise is a share"):
            training_batch(1, 1, 1, 16, Difficulty(), SHIPPED, shape_noise=share)
