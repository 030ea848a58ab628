"""Generated texts: read as the tokenizer reads them, written with the prompt before them, stopped where they say so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from mplat.models import LanguageModel, ModelConfig, build, generate, load
from tokenizer_zoo import fallback, llama_kind, word_pieces
from transformers import AutoModelForCausalLM, AutoTokenizer, MambaConfig, PreTrainedTokenizerFast

LLAMA = llama_kind()
BYTE_LEVEL = load("tiny-mamba").tokenizer


def saying(tokenizer: PreTrainedTokenizerFast, chain: list[int]) -> LanguageModel:
    """A model that follows each token of `chain` with the next one: its head is that table, its mixer is silent."""
    size = -(-len(tokenizer) // 16) * 16
    shape = ModelConfig("mamba", vocab_size=size, d_model=size, n_layers=1, tie_embeddings=False, eos_token_id=None)
    model = build(shape, tokenizer=tokenizer).eval()
    assert model.lm_head is not None and len(set(chain[:-1])) == len(chain) - 1
    with torch.no_grad():
        model.get_submodule("backbone.layers.0.mixer.out_proj").weight.zero_()  # type: ignore[union-attr]
        model.backbone.embeddings.weight.copy_(torch.eye(size))
        model.lm_head.weight.zero_()
        for token, following in zip(chain, chain[1:], strict=False):
            model.lm_head.weight[following, token] = 1.0
    return model


def said(tokenizer: PreTrainedTokenizerFast, prompt: list[int], new: list[int], stop: list[str]) -> tuple[str, str]:
    model = saying(tokenizer, [prompt[-1], *new])
    (found,) = generate(model, [prompt], max_new_tokens=len(new), stop=stop)
    return found.text, found.stop_reason


def ids(tokenizer: PreTrainedTokenizerFast, *tokens: str) -> list[int]:
    return [int(tokenizer.convert_tokens_to_ids(t)) for t in tokens]


def test_a_prompt_is_read_with_bos_once_as_transformers_reads_it(tmp_path: Path) -> None:
    torch.manual_seed(1)
    config = MambaConfig(vocab_size=272, hidden_size=16, num_hidden_layers=2, state_size=4, eos_token_id=2)
    theirs = AutoModelForCausalLM.from_config(config).eval()
    for weight in theirs.parameters():
        torch.nn.init.normal_(weight, std=0.5)
    theirs.save_pretrained(tmp_path)
    LLAMA.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    model = load(tmp_path)
    prompts = ["ab a b\n", "b", "<s>a b"]
    for prompt, found in zip(prompts, generate(model, prompts, max_new_tokens=8, stop=()), strict=True):
        read = tokenizer(prompt, add_special_tokens="<s>" not in prompt, return_tensors="pt").input_ids
        assert read[0, 0] == 1 and 1 not in read[0, 1:]
        whole = theirs.generate(read, max_new_tokens=8, do_sample=False, pad_token_id=0)[0].tolist()
        new = whole[read.shape[1] :]
        assert list(found.tokens) == [t for t in new if t != 2], prompt
    # what goes on from a state is no new text
    _, state = model(torch.tensor([[1, 5]]), return_state=True)
    again = generate(model, ["b"], max_new_tokens=4, stop=(), state=state.detach())
    assert again == generate(model, [tokenizer("b", add_special_tokens=False).input_ids], max_new_tokens=4, stop=(),
                             state=model(torch.tensor([[1, 5]]), return_state=True)[1].detach())  # fmt: skip


@pytest.mark.parametrize(
    ("tokenizer", "prompt", "new", "text"),
    [
        (LLAMA, ["<s>", "b"], ["▁a", "b"], " ab"),
        (LLAMA, ["<s>", "b"], ["a", "▁"], "a "),
        (word_pieces(), ["[CLS]", "a"], ["##b", "a"], "b a"),
        (word_pieces(), ["[CLS]", "a"], ["b", "."], " b."),
        (BYTE_LEVEL, ["a"], ["Ġ", "b"], " b"),
    ],
)
def test_blanks_are_those_between_prompt_and_text(tokenizer, prompt, new, text) -> None:
    assert said(tokenizer, ids(tokenizer, *prompt), ids(tokenizer, *new), [])[0] == text


@pytest.mark.parametrize(
    ("tokenizer", "prompt", "new", "stop", "text"),
    [
        (LLAMA, ["<s>", "b"], ["▁a", "\n", "b"], " a", ""),  # the blank is the context's
        (LLAMA, ["<s>", "ab"], ["a", "▁", "b", "\n"], " b", "a"),
        (LLAMA, ["<s>", "b"], ["a", "▁", "\n", "ab"], "a \n", ""),  # three tokens
        (LLAMA, ["<s>", "b"], ["ab", "\n", "▁a"], "b\n ", "a"),  # begins and ends within tokens
        (word_pieces(), ["[CLS]", "a"], ["##b", "b", "stop"], " b", "b"),
        (word_pieces(), ["[CLS]", "a"], ["b", ".", "stop"], " b.", ""),
        (BYTE_LEVEL, ["a"], ["b", "Ġ", "c", "d"], " c", "b"),
    ],
)
def test_stop_strings_are_found_in_the_text_not_in_tokens(tokenizer, prompt, new, stop, text) -> None:
    found = said(tokenizer, ids(tokenizer, *prompt), ids(tokenizer, *new), [stop, "never"])
    assert found == (text, "stop")


@pytest.mark.parametrize("stop", ["日", "é日", "日b"])
def test_a_stop_string_may_be_spread_over_the_bytes_of_characters(stop: str) -> None:
    tokenizer, prompt = LLAMA, ids(LLAMA, "<s>", "a")
    new = [*fallback("é日"), *ids(LLAMA, "b", "\n")]
    text, reason = said(tokenizer, prompt, new, [stop])
    assert (text, reason) == ("é日b\n"[: "é日b\n".index(stop)], "stop")
    assert BYTE_LEVEL is not None
    new = [*BYTE_LEVEL("é日b\n").input_ids]
    assert said(BYTE_LEVEL, ids(BYTE_LEVEL, "a"), new, [stop]) == (text, "stop")


def test_characters_begun_in_the_prompt_are_whole_in_the_text() -> None:
    first, *rest = fallback("日")
    assert said(LLAMA, [1, first], rest, []) == ("日", "length")
    assert set(said(LLAMA, [1], [first, *rest][:2], [])[0]) == {"\ufffd"}


def test_the_shipped_answer_keeps_its_blank() -> None:
    prompt = "Zakdor lives in Nornik. Sisgat lives in Karfen.\nQ: Where does Sisgat live?\nA:"
    assert load("tiny-mamba2").generate([prompt], max_new_tokens=8) == [" Karfen"]
