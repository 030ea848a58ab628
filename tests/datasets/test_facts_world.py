"""The facts world states each fact once, reads one way only, and keeps its splits apart."""

import re
from random import Random

import pytest
from mplat.core.errors import UsageError
from mplat.datasets.facts import Difficulty, names, prompts, training_text
from mplat.datasets.facts.names import SPLITS, entities
from mplat.datasets.facts.relations import PATHS, RELATIONS, questions, statements
from mplat.datasets.facts.world import chains, sample_facts


def any_of(words):
    return f"(?:{'|'.join(words)})"


# every name of either split, written without looking at the splits
NAME = re.compile(
    rf"\b(?:{any_of(names.PERSON_FIRST)}{any_of(names.PERSON_SECOND)}|{any_of(names.PLACE_FIRST)}"
    rf"{any_of(names.PLACE_SECOND)}|{any_of(names.ADJECTIVES)} {any_of(names.NOUNS)})\b"
)


def split_names(split):
    return {name.strip() for group in entities(split).values() for name in group}


def sampled_worlds(count):
    rng = Random(11)
    for i in range(count):
        hops = 1 + i % 3
        path = PATHS[hops][rng.randrange(len(PATHS[hops]))]
        yield path, sample_facts(rng, entities(SPLITS[i % 2]), [path], hops + rng.randrange(17 - hops))


def test_splits_share_no_name_but_every_syllable():
    for kind in ("person", "place", "thing"):
        evaluation, training = (set(entities(split)[kind]) for split in SPLITS)
        assert not evaluation & training
        assert len(evaluation) >= 32
        assert 10.5 <= len(training) / len(evaluation) <= 11.5
        parts = (lambda n: n.split()) if kind == "thing" else (lambda n: [n[1:4], n[4:]])
        halves = [[parts(name) for name in group] for group in (evaluation, training)]
        for side in (0, 1):
            assert {half[side] for half in halves[0]} == {half[side] for half in halves[1]}


def test_unknown_split_is_refused_with_a_suggestion():
    with pytest.raises(UsageError, match="did you mean 'eval'"):
        entities("evaluation")


def test_sentence_shapes_of_the_splits_are_disjoint():
    for relation in RELATIONS.values():
        assert not set(relation.train_statements) & set(relation.eval_statements)
        assert not set(relation.train_questions) & set(relation.eval_questions)
        assert len(relation.train_statements) >= 4 and len(relation.train_questions) >= 4
        assert len(relation.eval_statements) >= 2 and len(relation.eval_questions) >= 2
    for name in RELATIONS:
        assert not set(statements(name, "train")) & set(statements(name, "eval"))
    for paths in PATHS.values():
        for path in paths:
            assert not set(questions(path, "train")) & set(questions(path, "eval"))


def test_no_evaluation_name_or_shape_occurs_in_training_texts():
    texts = [training_text(5, i, Difficulty.at((i % 4) / 3)).text for i in range(1500)]
    seen_names = set()
    seen_shapes = set()
    for text in texts:
        facts, *rest = text.splitlines()
        seen_names |= set(NAME.findall(text))
        lines = re.findall(r"[^.]+\.", facts) + [line[2:] for line in rest if line.startswith("Q:")]
        seen_shapes |= {NAME.sub("X", line).strip() for line in lines}
    assert len(seen_names) > 2000
    assert seen_names <= split_names("train")

    for q in prompts(per_level=100, seed=0):
        shapes = {NAME.sub("X", s) for s in (*q.context[0].sentences, q.question)}
        assert not shapes & seen_shapes, q.id
        assert set(NAME.findall(q.prompt or "")) <= split_names("eval")
    # the same comparison finds the shapes of training prompts, so it can tell
    known = [NAME.sub("X", q.question) in seen_shapes for q in prompts(per_level=20, split="train")]
    assert sum(known) > 0.8 * len(known)


def test_a_pair_of_subject_and_relation_is_stated_once():
    for _, facts in sampled_worlds(600):
        pairs = [(f.relation, f.subject) for f in facts]
        assert len(pairs) == len(set(pairs))
        assert all(f.subject != f.object for f in facts)


def test_friends_neighbours_and_owned_things_take_part_once():
    for _, facts in sampled_worlds(600):
        for relation in ("friend", "owns"):
            parts = [entity for f in facts if f.relation == relation for entity in (f.subject, f.object)]
            assert len(parts) == len(set(parts))


def test_nobody_is_their_own_boss_over_any_number_of_steps():
    for _, facts in sampled_worlds(600):
        boss = {f.subject: f.object for f in facts if f.relation == "works_for"}
        for start in boss:
            at, steps = boss[start], 0
            while at in boss and steps <= len(boss):
                assert at != start
                at, steps = boss[at], steps + 1
            assert steps <= len(boss)


def test_kinds_fit_their_relations():
    for path, facts in sampled_worlds(200):
        pool = entities("eval") if facts[0].subject in sum(entities("eval").values(), ()) else entities("train")
        for fact in facts:
            assert fact.subject in pool[RELATIONS[fact.relation].subject]
            assert fact.object in pool[RELATIONS[fact.relation].object]
        assert tuple(f.relation for f in facts[: len(path)]) == path


def test_first_distractor_repeats_the_relation_asked_about():
    for path, facts in sampled_worlds(300):
        if len(facts) > len(path):
            assert facts[len(path)].relation == path[-1]
            assert facts[len(path)].subject != facts[len(path) - 1].subject


def test_chains_are_what_following_the_facts_gives():
    for _, facts in sampled_worlds(200):
        told = {(f.relation, f.subject): f.object for f in facts}
        expected = set()
        for hops, paths in PATHS.items():
            for path in paths:
                for head in {f.subject for f in facts}:
                    at = head
                    for relation in path:
                        at = told.get((relation, at), "")
                    if at:
                        expected.add((hops, path, head, at))
        found = [(hops, c.path, c.head, c.answer) for hops, group in enumerate(chains(facts), 1) for c in group]
        assert len(found) == len(set(found))
        assert set(found) == expected
