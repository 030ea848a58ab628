"""The model class `mplat` of lm-evaluation-harness: `--model mplat --model_args pretrained=tiny-mamba,recipe=FILE`.

It gives the figures of the harness's own class for Hugging Face models (`hf`) where no recipe is given: texts become
tokens in the same way, too long contexts lose tokens on the left in the same places, and generated texts are cut alike.
What differs is how often a text is read: a beginning that requests share is read once (`shared_reading`), and a
continuation is decoded from the state behind its prompt (`continuations`).

Where the model's scores are not finite, or a request asks for what there is not (beam search, top-p), it is an error:
the harness knows no answers without a score.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.models.utils import handle_stop_sequences, normalize_gen_kwargs, postprocess_generated_text
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

from ...core.errors import InputError, UsageError
from ...models import LanguageModel, generate, load
from ...steering import Layout, Recipe
from .continuations import Request, likelihoods, window_likelihoods
from .shared_reading import batches

if TYPE_CHECKING:
    from lm_eval.api.instance import Instance

MAX_LENGTH = 2048  # tokens, where the tokenizer names no limit; the harness's own default
MAX_GEN_TOKS = 256  # the harness's own default
AUTO_BATCH_SIZE = 32  # states are small, so that there is nothing to find out
CLI_DEVICE = "cuda:0"  # what the harness's command line gives where nobody names a device; means the CPU without a GPU
NO_LIMIT = int(1e30)  # what transformers writes for a tokenizer without one

_UNDERSTOOD = {"until", "max_gen_toks", "do_sample", "temperature"}


class HarnessModel(TemplateLM):
    """pretrained: whatever `mplat.load` takes, or a model. recipe: a file of `mplat eval`, applied to every request; it
    may act at any positions but those of evidence and question, which the harness does not know.

    batch_size: prompts read together; "auto" is 32. max_length: longest text in tokens, prompt and new ones together;
    default the tokenizer's limit, else 2048. seed: of sampling. tokenizer, dtype, device: as in `mplat.load`.
    Raises UsageError and InputError as `mplat.load` and `Recipe.load` do, and UsageError for a model without tokenizer,
    for such a recipe and for sizes that are no positive whole numbers.
    """

    def __init__(
        self,
        pretrained: str | LanguageModel,
        recipe: str | None = None,
        tokenizer: str | None = None,
        dtype: str | torch.dtype = "float32",
        device: str | None = None,
        batch_size: int | str | None = None,
        max_batch_size: int | None = None,
        max_length: int | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        place = None if device == CLI_DEVICE and not torch.cuda.is_available() else device
        self.model = load(pretrained, place, dtype, tokenizer=tokenizer) if isinstance(pretrained, str) else pretrained
        if self.model.tokenizer is None:
            raise UsageError(f"model {self.model.name} has no tokenizer; name one with tokenizer=NAME")
        self.tokenizer = self.model.tokenizer
        self.recipe = None if recipe is None else Recipe.load(recipe, self.model)
        words = [] if self.recipe is None else self.recipe.positions
        if unknown := sorted({"evidence", "question"} & set(words)):
            raise UsageError(f"the recipe steers at {unknown[0]}, and a request does not say where that is in its text")
        # where a recipe goes by the prompts, it comes with each batch
        self._by_batch = self._at_prompts if words else None
        auto = batch_size in (None, "auto")
        self.batch_size = _positive("batch_size", AUTO_BATCH_SIZE if auto else batch_size)
        if auto and max_batch_size is not None:
            self.batch_size = min(self.batch_size, _positive("max_batch_size", max_batch_size))
        limit = self.tokenizer.model_max_length
        own = MAX_LENGTH if limit is None or limit >= NO_LIMIT else int(limit)
        self.max_length = own if max_length is None else _positive("max_length", max_length)
        self.seed = seed
        self._device = self.model.device

    # -- what the harness asks about the model ------------------------------------------------------------------

    @property
    def eot_token_id(self) -> int:
        """The token that ends a text. Raises UsageError where the tokenizer has none."""
        return self._token("eos_token_id")

    @property
    def prefix_token_id(self) -> int:
        """What stands before a text without context: the token that begins texts, else the one that ends them."""
        own: Any = self.tokenizer.bos_token_id
        return self.eot_token_id if own is None else int(own)

    @property
    def tokenizer_name(self) -> str:
        """Part of the name of cached requests."""
        return (self.model.tokenizer_name or self.model.name).replace("/", "__")

    def get_model_info(self) -> dict[str, Any]:
        """What the harness's record says of the model: its digest, and what it is steered with."""
        return {
            "model_num_parameters": self.model.n_parameters,
            "model_dtype": str(self.model.dtype),
            "model_device": str(self.model.device),
            "model_sha": self.model.digest,
            "recipe_digest": None if self.recipe is None else self.recipe.digest,
        }

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """A conversation as one text, by the tokenizer's template."""
        return str(
            self.tokenizer.apply_chat_template(
                chat_history,
                tokenize=False,
                add_generation_prompt=add_generation_prompt,
                continue_final_message=not add_generation_prompt,
            )  # fmt: skip
        )

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **kwargs: Any) -> list[int]:
        """Token ids; what the tokenizer puts before a text stands there once, also where the text says it itself."""
        if add_special_tokens is None:
            add_special_tokens = not string.startswith(str(self.tokenizer.decode([self.prefix_token_id])))
        return [int(i) for i in self.tokenizer.encode(string, add_special_tokens=add_special_tokens)]

    # -- requests ------------------------------------------------------------------------------------------------

    def loglikelihood_rolling(self, requests: list[Instance], disable_tqdm: bool = False) -> list[float]:
        """The log-likelihood of whole texts, in the harness's windows of `max_length` tokens."""
        windows: list[Request] = []
        owners: list[int] = []
        for number, request in enumerate(requests):
            tokens = self.tok_encode(request.args[0])
            for window in get_rolling_token_windows(tokens, self.prefix_token_id, self.max_length, context_len=1):
                context, predicted = make_disjoint_window(window)
                windows.append(Request(tuple(context), tuple(predicted)))
                owners.append(number)
        totals = [0.0] * len(requests)
        # a text that is read is no prompt: what acts in it acts everywhere
        with self._steered(windows, everywhere=True):
            for number, found in zip(owners, window_likelihoods(self.model, windows, self.batch_size), strict=True):
                totals[number] += found
        for request, total in zip(requests, totals, strict=True):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, total)
        return totals

    def _loglikelihood_tokens(
        self, requests: Sequence[tuple[tuple[str, str], list[int], list[int]]], **kwargs: Any
    ) -> list[tuple[float, bool]]:
        cut = [self._cut(context, continuation) for _, context, continuation in requests]
        with self._steered(cut):
            found = [
                (each.total, each.greedy) for each in likelihoods(self.model, cut, self.batch_size, self._by_batch)
            ]
        for (texts, _, _), answer in zip(requests, found, strict=True):
            self.cache_hook.add_partial("loglikelihood", texts, answer)
        return found

    def _cut(self, context: list[int], continuation: list[int]) -> Request:
        """Without the tokens on the left for which there is no room."""
        if not 0 < len(continuation) <= self.max_length:
            raise InputError(
                f"a continuation has {len(continuation)} tokens; it needs 1 to {self.max_length} (max_length)"
            )
        whole = [*context, *continuation][-(self.max_length + 1) :]
        start = len(whole) - len(continuation)
        return Request(tuple(whole[:start]), tuple(whole[start:]))

    def generate_until(self, requests: list[Instance], disable_tqdm: bool = False) -> list[str]:
        """What the model writes after each context, up to the first stop text; greedy unless a request samples."""
        asked: list[Any] = [request.args for request in requests]
        alike: dict[str, list[int]] = {}
        for i, (_, options) in enumerate(asked):
            alike.setdefault(json.dumps(options, sort_keys=True, default=str), []).append(i)
        answers: dict[int, str] = {}
        with self._steered(requests):
            for members in alike.values():
                made = self._generated([asked[i][0] for i in members], asked[members[0]][1])
                answers |= zip(members, made, strict=True)
        for i, arguments in enumerate(asked):
            self.cache_hook.add_partial("generate_until", arguments, answers[i])
        return [answers[i] for i in range(len(asked))]

    def _generated(self, contexts: Sequence[str], asked: dict[str, Any]) -> list[str]:
        """Texts after `contexts`, all asked for in the same way."""
        chosen: dict[str, Any] = dict(normalize_gen_kwargs(asked, MAX_GEN_TOKS))
        # tasks write num_beams: 1 or top_p: 1, which ask for nothing
        unknown = sorted(
            name for name, value in chosen.items() if name not in _UNDERSTOOD and value is not None and value != 1
        )
        if unknown:
            raise UsageError(f"generation has no option {unknown[0]!r}; there are {', '.join(sorted(_UNDERSTOOD))}")
        eos = str(self.tokenizer.decode([self.eot_token_id], skip_special_tokens=False))
        until = [text for text in handle_stop_sequences(list(chosen.get("until") or []), eos) if text]
        new = chosen["max_gen_toks"]
        room = self.max_length - new
        if room < 1:
            raise UsageError(f"{new} new tokens leave no room for a context in max_length {self.max_length}")
        temperature = float(chosen.get("temperature") or 0.0) if chosen.get("do_sample") else 0.0
        prompts = [(self.tok_encode(context) or [self.prefix_token_id])[-room:] for context in contexts]
        texts = [""] * len(prompts)
        ahead = self._by_batch is None
        for number, batch in enumerate(batches(self.model, prompts, self.batch_size, ahead=ahead)):
            with nullcontext() if self._by_batch is None else self._by_batch([len(rest) for rest in batch.rest]):
                generated = generate(
                    self.model, batch.rest, max_new_tokens=new, stop=until, temperature=temperature,
                    seed=self.seed + number, state=batch.state,
                )  # fmt: skip
            for i, answer in zip(batch.rows, generated, strict=True):
                if answer.stop_reason == "nonfinite":
                    raise InputError(
                        f"the model's scores are not finite after {contexts[i][-40:]!r}; no text is made up"
                    )
                text = self.tokenizer.decode(list(answer.tokens), skip_special_tokens=True)
                texts[i] = postprocess_generated_text(str(text), until, None)
        return texts

    @contextmanager
    def _steered(self, requests: Sequence[object], everywhere: bool = False) -> Iterator[None]:
        """Inside the block the recipe acts that is the same for all prompts; where there is nothing to ask, it need
        not. everywhere: at every token and in every phase, whatever the recipe says."""
        recipe = self.recipe
        if recipe is None or recipe.is_identity or not requests or (recipe.positions and not everywhere):
            yield
            return
        acting = recipe.everywhere() if everywhere else recipe
        with self.model.edit(*acting.edits(self.model)):
            yield

    @contextmanager
    def _at_prompts(self, lengths: Sequence[int]) -> Iterator[None]:
        """Inside the block the recipe acts on a batch of prompts of `lengths` tokens."""
        assert self.recipe is not None
        with self.model.edit(*self.recipe.edits(self.model, [Layout(length) for length in lengths])):
            yield

    def _token(self, name: str) -> int:
        found: Any = getattr(self.tokenizer, name)
        if found is None:
            raise UsageError(f"the tokenizer of {self.model.name} has no {name.removesuffix('_id')}; name another one")
        return int(found)


def _positive(name: str, value: Any) -> int:
    """`value` as a whole number from 1, as it comes from a command line."""
    try:
        number = int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1 or number != float(value):
        raise UsageError(f"{name} must be a whole number from 1, not {value!r}")
    return number


register_model("mplat")(HarnessModel)  # not as a decorator, which would hide the arguments from a type checker
