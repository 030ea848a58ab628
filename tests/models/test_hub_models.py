"""Models of the hub: from the local cache without a network, and from the hub where the cache lacks something."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from adapter_zoo import theirs
from huggingface_hub.errors import GatedRepoError, HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError
from mplat.core.errors import InputError, UsageError
from mplat.datasets.tokenizer import SHIPPED
from mplat.models import ModelConfig, build, load
from mplat.models.files import catalog
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub; no network, as in all tests."""
    monkeypatch.delenv("HF_HUB_CACHE", raising=False)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "hub"


def cached(home: Path, repo: str, source: Path, names: Iterable[str] | None = None) -> Path:
    """Files of `source` as huggingface_hub keeps them: links into a folder of blobs, and what the main branch is."""
    place = home / f"models--{repo.replace('/', '--')}"
    snapshot = place / "snapshots" / COMMIT
    for folder in (place / "blobs", place / "refs", snapshot):
        folder.mkdir(parents=True, exist_ok=True)
    (place / "refs" / "main").write_text(COMMIT)
    for path in sorted(source.iterdir()):
        if (names is None or path.name in names) and not (snapshot / path.name).exists():
            shutil.copy(path, place / "blobs" / path.name)
            (snapshot / path.name).symlink_to(Path("../../blobs") / path.name)
    return snapshot


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """A GPT-2 in three shards, as a repository holds it."""
    folder = tmp_path / "source"
    theirs("gpt2").save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    place = {name: f"model-{i % 3 + 1:05d}-of-00003.safetensors" for i, name in enumerate(weights)}
    for part in set(place.values()):
        save_file({n: t for n, t in weights.items() if place[n] == part}, folder / part)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": place}))
    return folder


class Hub:
    """A stand-in for the hub: fetches what fits the patterns from a folder, or has no answer."""

    def __init__(self, home: Path, source: Path | None) -> None:
        self.home, self.source, self.asked = home, source, list[list[str]]()

    def __call__(self, repo: str, *, allow_patterns: list[str], cache_dir: Path, etag_timeout: float) -> str:
        assert Path(cache_dir) == self.home and etag_timeout <= 10
        self.asked.append(allow_patterns)
        if self.source is None:
            raise LocalEntryNotFoundError("no network")
        fitting = {p.name for pattern in allow_patterns for p in self.source.glob(pattern)}
        return str(cached(self.home, repo, self.source, fitting))


def online(monkeypatch: pytest.MonkeyPatch, home: Path, source: Path | None) -> Hub:
    hub = Hub(home, source)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", hub)
    return hub


@pytest.mark.parametrize("repo", ["gpt2", "openai-community/gpt2"])
def test_i17_a_cached_model_needs_nobody(repo: str, home: Path, source: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = online(monkeypatch, home, None)
    cached(home, repo, source)
    model = load(repo)
    assert model.name == repo and model.digest == load(source).digest
    assert hub.asked == []


@pytest.mark.parametrize("there", [["config.json"], ["config.json", "model.safetensors.index.json"]])
def test_what_is_missing_is_asked_for(
    there: list[str], home: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cached(home, "gpt2", source, [*there, "model-00001-of-00003.safetensors"])
    hub = online(monkeypatch, home, source)
    assert load("gpt2").digest == load(source).digest
    assert len(hub.asked) == 1 and not any(pattern.endswith(".bin") for pattern in hub.asked[0])


def test_pickles_are_asked_for_only_where_there_is_nothing_else(
    home: Path, source: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    weights = {n: t for path in source.glob("model-*") for n, t in load_file(path).items()}
    for path in source.glob("model*"):
        path.unlink()
    torch.save(weights, source / "pytorch_model.bin")
    hub = online(monkeypatch, home, source)
    assert load("gpt2").digest == load(source).digest
    assert ["pytorch_model*.bin" in asked for asked in hub.asked] == [False, True]


@pytest.mark.parametrize(
    ("there", "missing"),
    [
        (["config.json"], "without model.safetensors, and"),
        (["generation_config.json"], "without config.json, model.safetensors, and"),
        (
            ["config.json", "model.safetensors.index.json", "model-00002-of-00003.safetensors"],
            "without model-00001-of-00003.safetensors, model-00003-of-00003.safetensors, and",
        ),
    ],
)
def test_i17_offline_the_missing_files_are_named(there: list[str], missing: str, home: Path, source: Path) -> None:
    """With the real library, told that there is no network."""
    cached(home, "gpt2", source, there)
    with pytest.raises(InputError, match=f"^model 'gpt2' is in the local cache {missing} the hub gave no more; fetch"):
        load("gpt2")


@pytest.mark.parametrize(
    ("kind", "status", "message"),
    [
        (GatedRepoError, 403, "model 'someone/else' is gated: accept its terms on the hub, then `hf auth login`"),
        (RepositoryNotFoundError, 404, "the hub has none of that name; .*see `mplat models`"),
        (HfHubHTTPError, 429, "the hub gave no answer; .*with `hf download someone/else`"),
        (HfHubHTTPError, 503, "the hub gave no answer; .*with `hf download someone/else`"),
    ],
)
def test_i17_what_the_hub_refuses_is_one_sentence_with_the_command_that_helps(
    kind: type[HfHubHTTPError], status: int, message: str, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: object, **options: object) -> str:
        raise kind(f"{status}", response=SimpleNamespace(headers={}, request=None, status_code=status))  # type: ignore[arg-type]

    monkeypatch.setattr(huggingface_hub, "snapshot_download", refuse)
    with pytest.raises(InputError, match=message) as caught:
        load("someone/else")
    assert caught.value.exit_code == 3 and "\n" not in str(caught.value)


def test_a_download_that_broke_off_is_not_a_file(home: Path, source: Path) -> None:
    snapshot = cached(home, "gpt2", source)
    (snapshot.parent.parent / "blobs" / "model-00003-of-00003.safetensors").unlink()  # the link is there
    with pytest.raises(InputError, match=r"without model-00003-of-00003\.safetensors"):
        load("gpt2")


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("tiny-mumba", "tiny-mamba"),
        ("falcon", "tiiuae/falcon-mamba-7b"),
        ("falcon-mamba", "tiiuae/falcon-mamba-7b"),
        ("Falcon-Mamba-7B-Instruct", "tiiuae/falcon-mamba-7b"),
        ("mamba-130m", "state-spaces/mamba-130m-hf"),
        ("mamba-2-370m", "state-spaces/mamba2-370m"),
        ("minipml", "tiny-miniplm"),
        ("MiniPLM-Mamba", "MiniLLM/MiniPLM-Mamba-130M"),
        ("blackmamba", "Zyphra/BlackMamba-1.5B"),
        ("state-spaces/mamba2-1.3", "state-spaces/mamba2-1.3b"),
        ("StripedHyena-Nous-7B", "togethercomputer/StripedHyena-Hessian-7B"),
        ("tiny_hyena", "tiny-hyena"),
    ],
)
def test_an_unknown_name_is_answered_by_meaning(name: str, near: str, home: Path) -> None:
    remedy = f"hf download {name}`" if "/" in name else "see `mplat models`"
    with pytest.raises(InputError, match=f"no model '{name}': .*did you mean '{near}'.*{remedy}$"):
        load(name)


def test_names_that_mean_nothing_get_no_guess(home: Path) -> None:
    for name in ("qwertz", "bert-large", "x/y/z", "a//b"):
        with pytest.raises(InputError, match=f"no model '{name}'") as error:
            load(name)
        assert "did you mean" not in str(error.value) and "tiny-mamba2" in str(error.value)
    with pytest.raises(InputError, match="gave no answer; mplat knows it; .*hf download Zyphra/BlackMamba-1.5B"):
        load("Zyphra/BlackMamba-1.5B")
    with pytest.raises(InputError, match="hf download someone/else") as error:
        load("someone/else")


def test_names_of_the_wrong_kind(tmp_path: Path) -> None:
    for wrong in (None, 3, b"gpt2", ["gpt2"]):
        with pytest.raises(UsageError, match="the name of a model is a text or a path"):
            load(wrong)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="the name of the model is empty"):
        load(" ")
    assert load(Path(catalog.shipped()["tiny-mamba"])).digest == load("tiny-mamba").digest


# -- tokenizers ------------------------------------------------------------------------------------------------------


def original(folder: Path, **shape: int) -> Path:
    """A state-spaces folder, which has no tokenizer."""
    config = ModelConfig("mamba2", vocab_size=1100, d_model=16, n_layers=1, state_size=4, head_dim=8)
    build(config).save(folder, layout="original")
    return folder


def test_a_published_model_without_tokenizer_has_that_of_its_authors(home: Path, tmp_path: Path) -> None:
    cached(home, "state-spaces/mamba2-130m", original(tmp_path / "source"))
    assert load("state-spaces/mamba2-130m").tokenizer is None  # in no cache, and no network
    cached(home, "EleutherAI/gpt-neox-20b", SHIPPED)
    tokenizer = load("state-spaces/mamba2-130m").tokenizer
    assert tokenizer is not None
    assert tokenizer("Oslo lies in Norway").input_ids == load("tiny-mamba").tokenizer("Oslo lies in Norway").input_ids  # type: ignore[misc]


def test_a_tokenizer_that_the_cache_lacks_is_asked_for(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another program may have fetched the weights and not the words."""
    source = original(tmp_path / "source")
    cached(home, "someone/model", source)
    for path in SHIPPED.glob("*.json"):
        shutil.copy(path, source)
    asked: list[str] = []

    def download(repo: str, name: str, *, cache_dir: Path, etag_timeout: float) -> str:
        asked.append(name)
        return str(cached(home, repo, source, [name]) / name)

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", download)
    model = load("someone/model")
    assert model.tokenizer is not None and asked[0] == "tokenizer.json"
    assert model.tokenizer("Oslo").input_ids == load("tiny-mamba").tokenizer("Oslo").input_ids  # type: ignore[misc]


def test_every_known_model_has_a_tokenizer_of_its_own_or_a_default() -> None:
    neox = "EleutherAI/gpt-neox-20b"
    for name in ("state-spaces/mamba-130m", "state-spaces/mamba2-2.7b", "state-spaces/mamba-2.8b-slimpj"):
        assert catalog.tokenizer_of(name) == neox
    assert catalog.tokenizer_of("Zyphra/BlackMamba-2.8B") == neox
    for name in ("MiniLLM/MiniPLM-Mamba-130M", "tiiuae/falcon-mamba-7b", "someone/else", "gpt2"):
        assert catalog.tokenizer_of(name) is None


def test_a_tokenizer_is_named_by_folder_file_model_or_id(home: Path, tmp_path: Path) -> None:
    folder = original(tmp_path / "model")
    assert load(folder).tokenizer is None
    text = "Oslo lies in Norway"
    expected = load("tiny-mamba").tokenizer(text).input_ids  # type: ignore[misc]
    (tmp_path / "own.json").write_bytes((SHIPPED / "tokenizer.json").read_bytes())
    cached(home, "someone/words", SHIPPED)
    for name in (
        SHIPPED,
        str(SHIPPED),
        SHIPPED / "tokenizer.json",
        tmp_path / "own.json",
        "tiny-mamba2",
        "someone/words",
    ):
        model = load(folder, tokenizer=name)
        assert model.tokenizer is not None and model.tokenizer(text).input_ids == expected
        assert model.tokenizer_name == str(name)
    model.save(tmp_path / "saved")
    again = load(tmp_path / "saved")
    assert again.digest == model.digest != load(folder).digest and again.tokenizer_name is None


def test_a_tokenizer_that_cannot_be_used_is_refused(home: Path, tmp_path: Path) -> None:
    folder = original(tmp_path / "model")
    (tmp_path / "broken.json").write_text(json.dumps({"model": 3}))
    (tmp_path / "empty").mkdir()
    for name, message in (
        ("someone/words", "no tokenizer 'someone/words'.*hf download someone/words"),
        (tmp_path / "none", "no tokenizer '.*none'"),
        (tmp_path / "empty", "the folder has no tokenizer.json"),
        (tmp_path / "broken.json", "broken.json: is not a tokenizer"),
    ):
        with pytest.raises(InputError, match=message):
            load(folder, tokenizer=name)
    with pytest.raises(UsageError, match="a tokenizer is named by a folder or a hub id, not by int"):
        load(folder, tokenizer=3)  # type: ignore[arg-type]
    small = ModelConfig("mamba", vocab_size=40, d_model=16, n_layers=1, state_size=4)
    build(small).save(tmp_path / "small")
    with pytest.raises(InputError, match="1024 tokens but the embedding only 40"):
        load(tmp_path / "small", tokenizer="tiny-mamba")


def filled_up(folder: Path, reached: bool) -> Path:
    """The shipped tokenizer with entries up to 1200, which a merge reaches or which only fill it up."""
    content = json.loads((SHIPPED / "tokenizer.json").read_text())
    vocabulary = content["model"]["vocab"]
    content["model"]["vocab"] = vocabulary | {f"[PAD{i}]": i for i in range(len(vocabulary), 1199)}
    if reached:
        content["model"]["vocab"]["zq"] = 1199
        content["model"]["merges"].append(["z", "q"])
    folder.mkdir()
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


def test_entries_that_no_text_reaches_do_no_harm(tmp_path: Path) -> None:
    """Published vocabularies are filled up to a round number, above the rows that the embedding has."""
    folder = original(tmp_path / "model")  # 1100 rows
    tokenizer = load(folder, tokenizer=filled_up(tmp_path / "filled", reached=False)).tokenizer
    assert tokenizer is not None and len(tokenizer) == 1199
    text = "Oslo lies in Norway, zq"
    assert tokenizer(text).input_ids == load("tiny-mamba").tokenizer(text).input_ids  # type: ignore[misc]
    with pytest.raises(InputError, match="the tokenizer has 1200 tokens but the embedding only 1100 rows"):
        load(folder, tokenizer=filled_up(tmp_path / "reached", reached=True))


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("gpt2", 50257),
        pytest.param("gpt-neox-20b", 50280, marks=pytest.mark.slow),
        pytest.param("falcon", 65024, marks=pytest.mark.slow),
    ],
)
def test_published_tokenizers_fit_the_models_they_belong_to(
    name: str, rows: int, shared_data: Path, tmp_path: Path
) -> None:
    place = shared_data / "tokenizers" / name
    if not place.is_dir():
        pytest.skip(f"{place} is not there")
    build(ModelConfig("mamba", vocab_size=rows, d_model=8, n_layers=1, state_size=2)).save(tmp_path)
    tokenizer = load(tmp_path, tokenizer=place).tokenizer
    text = "The capital of France is\n\nParis."
    expected = Tokenizer.from_file(str(place / "tokenizer.json")).encode(text).ids
    assert tokenizer is not None and tokenizer(text).input_ids == expected
    build(ModelConfig("mamba", vocab_size=rows - 50, d_model=8, n_layers=1, state_size=2)).save(tmp_path)
    with pytest.raises(InputError, match="rows"):
        load(tmp_path, tokenizer=place)


# -- devices ---------------------------------------------------------------------------------------------------------


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_a_device_that_is_not_there_is_refused_before_anything_is_read() -> None:
    for device in ("cuda", "cuda:1", torch.device("cuda")):
        with pytest.raises(UsageError, match="cannot be used: .*(CUDA|GPU).*leave device out"):
            load("no/such-model", device=device)
    for device in ("gpu", "", "cuda:x", "cpu:a"):
        with pytest.raises(UsageError, match="unknown device"):
            load("tiny-mamba", device=device)
    with pytest.raises(UsageError, match="cannot be used"):
        load("tiny-mamba", device="mps")
    assert load("tiny-mamba", device=torch.device("cpu")).device.type == "cpu"


def test_a_dtype_that_weights_cannot_have_is_refused() -> None:
    for dtype in (torch.int32, torch.complex64, "int8", 3, "fp32"):
        with pytest.raises(UsageError, match="unknown dtype"):
            load("tiny-mamba", dtype=dtype)  # type: ignore[arg-type]
