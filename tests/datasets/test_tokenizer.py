"""The shipped tokenizer loses nothing, keeps names to two tokens and can be made again byte for byte."""

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mplat.datasets import tokenizer as module
from mplat.datasets.facts import Difficulty, prompts, training_text
from mplat.datasets.facts.names import entities
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

SHIPPED = Tokenizer.from_file(str(module.SHIPPED / "tokenizer.json"))


@given(st.text())
def test_every_text_round_trips(text):
    assert SHIPPED.decode(SHIPPED.encode(text).ids, skip_special_tokens=False) == text


@given(st.text(alphabet=" \n\t.'?<|>endoftxQA:Ġ\u00a0\u200b", max_size=40))
def test_awkward_text_round_trips(text):
    assert SHIPPED.decode(SHIPPED.encode(text).ids, skip_special_tokens=False) == text


def test_training_again_gives_the_shipped_files(tmp_path):
    module.save(module.train(seed=0), tmp_path / "again")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "again" / name).read_bytes() == (module.SHIPPED / name).read_bytes()
    assert sorted(p.name for p in (tmp_path / "again").iterdir()) == ["tokenizer.json", "tokenizer_config.json"]


def test_another_seed_keeps_the_promises():
    other = module.train(seed=1)
    assert other.get_vocab_size() == 1024
    assert all(len(other.encode(name).ids) == 2 for names in entities("eval").values() for name in names)


def test_vocabulary_is_1024_with_the_end_of_text_first():
    vocabulary = SHIPPED.get_vocab()
    assert sorted(vocabulary.values()) == list(range(1024))
    assert vocabulary["<|endoftext|>"] == 0
    assert SHIPPED.encode("<|endoftext|>").ids == [0]


@pytest.mark.parametrize("split", ["eval", "train"])
def test_every_name_is_two_tokens_after_a_blank_and_in_a_sentence(split):
    for kind, names in entities(split).items():
        for name in names:
            encoding = SHIPPED.encode(f" of{name}'s.")
            assert len(SHIPPED.encode(name).ids) == 2, name
            assert len(encoding.ids) == 5, name
            if kind != "thing":
                assert len(SHIPPED.encode(name[1:]).ids) == 2, name


def test_every_evaluation_token_occurs_in_training_texts():
    trained = {i for n in range(2500) for i in SHIPPED.encode(training_text(0, n, Difficulty()).text).ids}
    used = {i for q in prompts(per_level=150, seed=8) for i in SHIPPED.encode(f"{q.prompt} {q.answers[0]}\n").ids}
    assert len(used) > 200
    assert {SHIPPED.id_to_token(i) for i in used - trained} == set()


def test_words_of_the_world_are_single_tokens():
    words = "lives in home of boss works for friend owns kept place Where Which Who What thing red lamp".split()
    assert {w: len(SHIPPED.encode(" " + w).ids) for w in words} == dict.fromkeys(words, 1)


def test_a_block_of_seven_facts_and_six_questions_is_short():
    lengths = [len(SHIPPED.encode(training_text(0, n, Difficulty(7, 7, 6)).text).ids) for n in range(100)]
    assert sum(lengths) / 100 < 180
    assert max(lengths) < 230


def test_ordinary_english_is_not_split_into_bytes():
    text = "What is the name of the city where the people said that they would know more about it?"
    assert len(SHIPPED.encode(text).ids) < len(text) / 3


def test_loads_with_transformers_and_adds_nothing():
    for loader in (AutoTokenizer, PreTrainedTokenizerFast):
        loaded = loader.from_pretrained(str(module.SHIPPED))
        assert isinstance(loaded, PreTrainedTokenizerFast)
        assert len(loaded) == 1024
        assert loaded.bos_token_id == loaded.eos_token_id == loaded.pad_token_id == 0
        text = "Q: Where does Velmor live?\nA: Kartis ."
        assert loaded(text)["input_ids"] == SHIPPED.encode(text).ids
        assert loaded.decode(loaded(text)["input_ids"]) == text


def test_folder_is_plain_json_with_no_way_to_run_code():
    config = json.loads((Path(module.SHIPPED) / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert not {"auto_map", "chat_template"} & set(config)
