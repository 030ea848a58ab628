"""The models mplat knows by name: those it ships, those whose weights are set by hand (`planted`), and public
checkpoints with their shape, licence and size."""

from __future__ import annotations

import difflib
import re
from pathlib import Path
from typing import NamedTuple

from ...core.errors import UsageError, suggest
from ...core.json_files import read_object
from ..model_config import ModelConfig
from ..planted import find_planted, is_planted, planted_names

_SHIPPED_FOLDER = Path(__file__).parents[1] / "tiny"


class KnownModel(NamedTuple):
    """A known model. n_bytes: size of the weight file; needs_network: unless it is already in the local cache;
    n_active_parameters: those that one token uses, fewer where there are experts."""

    name: str
    arch: str
    n_parameters: int
    n_bytes: int
    licence: str
    needs_network: bool
    n_active_parameters: int


def _mamba(d_model: int, n_layers: int) -> ModelConfig:
    return ModelConfig("mamba", vocab_size=50280, d_model=d_model, n_layers=n_layers, state_size=16)


def _mamba2(d_model: int, n_layers: int) -> ModelConfig:
    return ModelConfig("mamba2", vocab_size=50288, d_model=d_model, n_layers=n_layers, state_size=128, head_dim=64)


def _black_mamba(d_model: int, n_layers: int, expert_size: int) -> ModelConfig:
    own = {"n_experts": 8, "expert_size": expert_size}
    return ModelConfig("black_mamba", vocab_size=50304, d_model=d_model, n_layers=n_layers, state_size=16, own=own)


#: shape of each public checkpoint, by hub id
HUB: dict[str, ModelConfig] = {
    "state-spaces/mamba-130m-hf": _mamba(768, 24),
    "state-spaces/mamba-370m-hf": _mamba(1024, 48),
    "state-spaces/mamba-790m-hf": _mamba(1536, 48),
    "state-spaces/mamba-1.4b-hf": _mamba(2048, 48),
    # Mamba trained on a refined corpus (arXiv 2410.17215), with Falcon's tokenizer: its text ends with token 11
    "MiniLLM/MiniPLM-Mamba-130M": ModelConfig(
        "mamba", vocab_size=65024, d_model=768, n_layers=24, bos_token_id=None, eos_token_id=11, pad_token_id=11
    ),
    "state-spaces/mamba2-130m": _mamba2(768, 24),
    "state-spaces/mamba2-370m": _mamba2(1024, 48),
    "state-spaces/mamba2-1.3b": _mamba2(2048, 48),
    # that of 1.5B is inferred from the size of its file; a folder's own config.json decides when it is loaded
    "Zyphra/BlackMamba-1.5B": _black_mamba(1152, 30, 3072),
    "Zyphra/BlackMamba-2.8B": _black_mamba(1472, 36, 3872),
    "tiiuae/falcon-mamba-7b": ModelConfig(
        "falcon_mamba", vocab_size=65024, d_model=4096, n_layers=64, tie_embeddings=False, eos_token_id=11,
        pad_token_id=11,
    ),
    "Zymrael/hyena-small-150b-tok": ModelConfig(
        "hyena", vocab_size=50264, d_model=864, n_layers=18, eos_token_id=50256, own={"mlp_ratio": 2}
    ),
    "togethercomputer/StripedHyena-Hessian-7B": ModelConfig(
        "striped_hyena", vocab_size=32000, d_model=4096, n_layers=32, tie_embeddings=False, eos_token_id=2,
        own={"n_heads": 32, "n_kv_heads": 8, "modal_size": 2, "mlp_size": 14336, "rope_base": 5e5},
    ),
}  # fmt: skip
# those stored in two bytes a number; the others take four
_STORED_AS_HALVES = frozenset({
    "Zyphra/BlackMamba-1.5B", "Zyphra/BlackMamba-2.8B", "tiiuae/falcon-mamba-7b",
    "togethercomputer/StripedHyena-Hessian-7B",
})  # fmt: skip
# licences where it is not Apache-2.0
_LICENCES = {
    "tiiuae/falcon-mamba-7b": "TII Falcon-Mamba 2.0",
    "Zymrael/hyena-small-150b-tok": "see its page",
}
# the tokenizer that models without one of their own were trained with, by the owner or id of the model
_TOKENIZERS = {
    "state-spaces": "EleutherAI/gpt-neox-20b",
    "Zyphra/BlackMamba-1.5B": "EleutherAI/gpt-neox-20b",
    "Zyphra/BlackMamba-2.8B": "EleutherAI/gpt-neox-20b",
    "Zymrael/hyena-small-150b-tok": "openai-community/gpt2",
}


def tokenizer_of(name: str) -> str | None:
    """The hub id whose tokenizer the model `name` of the hub was trained with, where it comes without one."""
    return _TOKENIZERS.get(name) or _TOKENIZERS.get(name.partition("/")[0])


def near(name: str) -> str:
    """The end of a message that no model is called `name`: the known one with the most telling words in common, then
    what there is."""
    known = [*shipped(), *planted_names(), *HUB]
    words = {other: set(_words(other)) for other in known}
    rarity = {word: 1 / sum(word in of for of in words.values()) for of in words.values() for word in of}

    def likeness(other: str) -> tuple[float, float]:
        closeness = {word: 1.0 if word[0].isdecimal() else 0.75 for word in _words(name)}  # 130 is not nearly 370
        asked = [difflib.get_close_matches(word, words[other], n=1, cutoff=c) for word, c in closeness.items()]
        shared = sum(rarity[found[0]] for found in asked if found)
        short = other.rpartition("/")[2].removesuffix("-hf")
        return shared, max(difflib.SequenceMatcher(None, name.lower(), o.lower()).ratio() for o in (other, short))

    best = max(known, key=likeness)
    shared, spelling = likeness(best)
    guess = f"did you mean {best!r}? " if shared > 0 or spelling >= 0.6 else ""
    return f"{guess}valid: {', '.join(shipped())}, a planted model, a folder, or a model of the hub"


def _words(name: str) -> list[str]:
    return re.findall(r"[a-z]{2,}|\d+(?:\.\d+)?", name.lower())


def shipped() -> dict[str, Path]:
    """Folders of the models that come with the package, by name."""
    return {p.parent.name: p.parent for p in sorted(_SHIPPED_FOLDER.glob("*/model.safetensors"))}


def shape(name: str) -> ModelConfig:
    """The configuration of a known model, read or constructed without its weights."""
    folders = shipped()
    if name in folders:
        content = read_object(folders[name] / "config.json", constants=True)
        return ModelConfig.from_hf(content, source=f"{name}/config.json")
    if is_planted(name):
        return find_planted(name).config
    short = {hub.split("/")[1].removesuffix("-hf"): config for hub, config in HUB.items()}
    if name in HUB or name in short:
        return HUB.get(name) or short[name]
    raise UsageError(f"unknown model {name!r}; {suggest(name, [*folders, *planted_names(), *HUB, *short])}")


def entries() -> list[KnownModel]:
    """All known models: the shipped ones, the planted ones (n_bytes: once saved), those of the hub."""
    from ..building import build

    result = []
    for name, folder in shipped().items():
        config = shape(name)
        size = (folder / "model.safetensors").stat().st_size
        model = build(config, device="meta")
        result.append(KnownModel(name, config.arch, model.n_parameters, size, "MIT", False, model.n_active_parameters))
    for name in planted_names():
        model = build(shape(name), device="meta")
        size = 4 * model.n_parameters
        result.append(
            KnownModel(name, model.config.arch, model.n_parameters, size, "MIT", False, model.n_active_parameters)
        )
    for name, config in HUB.items():
        model = build(config, device="meta")
        count, size = model.n_parameters, model.n_parameters * (2 if name in _STORED_AS_HALVES else 4)
        licence = _LICENCES.get(name, "Apache-2.0")
        result.append(KnownModel(name, config.arch, count, size, licence, True, model.n_active_parameters))
    return result
