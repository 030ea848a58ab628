"""`mplat quickstart` with a few questions: every stage runs, a page is made, nothing is done twice. And the shipped
model, with half of its questions: the planted damage is mended, and the undamaged model left alone."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from mplat.commands import main
from mplat.core.config import load_config
from mplat.core.errors import UsageError
from mplat.eval.planted import PLANTS, Plant, find_plant
from mplat.eval.price_texts import price_texts
from mplat.models import ModelConfig, Scale, build, load
from mplat.quickstart import QuickstartConfig
from mplat.quickstart.planting import PlantedModel, plant_into
from mplat.steering import Recipe
from mplat.steering.part import Part

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "platform" / "models" / "tiny" / "tokenizer"
PLANTED, NANO = "planted-mamba2", "planted-nano"
STAGES = ["prompts", "classify", f"plant {NANO}", f"interp {NANO}", f"eval {NANO}", "interp one", "eval one", "report"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration with a plant of a random nano model, that model, and a few prompts."""
    folder = tmp_path_factory.mktemp("quickstart")
    shape = ModelConfig("mamba", vocab_size=1024, d_model=16, n_layers=2, state_size=4, head_dim=8)
    build(shape, seed=0, dtype=torch.float32).save(folder / "one")
    for file in TOKENIZER.iterdir():
        shutil.copy(file, folder / "one")
    values = {
        "plant": "tiny-nano:mixer_out",
        "models": [str(folder / "one")],
        "interp": {"steps": ["activations"]},
        "per_level": 4,
        "classify": {"per_level": 2},
        "steering": {"draws": 1, "development_limit": 4, "budget": 200_000, "price_limit": 4},
    }
    path = folder / "quickstart.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture
def nano_plant(settings: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The plant of the configuration."""
    plant = Plant("tiny-nano:mixer_out", "damaged", str(settings.parent / "one"), "mixer_out", 1, 4, 1 / 8)
    monkeypatch.setitem(PLANTS, plant.name, plant)


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLAT_CACHE", str(tmp_path_factory.getbasetemp() / "quickstart-cache"))


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    code = main(["quickstart", "--json", *arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out), captured.err


@pytest.mark.slow
@pytest.mark.usefixtures("nano_plant")
def test_every_stage_runs_and_a_second_run_computes_nothing_new(
    settings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    first, told = run("--config", str(settings), "--out", str(out), capsys=capsys)
    assert [stage["stage"] for stage in first["stages"]] == STAGES
    for number, name in enumerate(STAGES, 1):
        assert f"{number}/8 {name}: " in told
    page = (out / "report.html").read_text(encoding="utf-8")
    for words in (
        "unsteered",
        "steered",
        f">{NANO}<",
        ">one<",
        "simple_recall",
        "mplat quickstart",
        "4 channels of what block 1 adds to the residual stream (blocks.1.mixer_out) turned down 8 times",
        "controls left out: shuffled_labels",
    ):
        assert words in page, words
    assert page.index(f"<b>{NANO}.</b>") < page.index("<b>one.</b>")
    for name in (NANO, "one"):
        summary = first["summaries"][name]
        conditions = summary["overall"]["em"]["conditions"]
        assert {"unsteered", "steered"} <= set(conditions)
        assert any(c.startswith("control_") for c in conditions) or summary["verdict"]["kind"] == "left_alone"
    for file in ("prompts.parquet", "classify/questions.parquet", "interp/one/run.json", "eval/one/items.parquet"):
        assert (out / file).is_file(), file

    tables = {path: path.read_bytes() for path in sorted([*out.rglob("*.parquet"), *out.glob("models/*/*")])}
    ledgers = {path: path.read_bytes() for path in sorted(out.rglob("ledger.jsonl"))}
    second, told = run("--config", str(settings), "--out", str(out), capsys=capsys)
    assert "1 cached" in told and ", 0 cached" not in told and "is already in" in told
    assert {path: path.read_bytes() for path in tables} == tables
    assert {path: path.read_bytes() for path in sorted(out.rglob("ledger.jsonl"))} == ledgers and ledgers
    assert second["report_sha256"] == first["report_sha256"]
    assert second["summaries"] == first["summaries"]

    fewer = ["--config", str(settings), "--plant", "none", "--out", str(out)]
    assert main(["quickstart", "-q", *fewer]) == 2
    assert "differs in plant" in capsys.readouterr().err and (out / "eval" / NANO).is_dir()
    third, _ = run(*fewer, "--fresh", capsys=capsys)
    assert [p.name for p in (out / "eval").iterdir()] == [p.name for p in (out / "interp").iterdir()] == ["one"]
    assert third["summaries"]["one"] == first["summaries"]["one"]
    assert not (out / "models").exists() and third["planted"] is None and third["about"] == []


@pytest.mark.slow
def test_the_planted_model_is_one_that_every_command_reads_and_its_record_says_what_was_done(
    tmp_path: Path,
) -> None:
    folder = tmp_path / PLANTED
    planted, there = plant_into("tiny-mamba2:mixer_out:1/16:0", folder)
    model, plain = load(folder), load("tiny-mamba2")
    assert not there and model.digest == planted.digest != plain.digest
    tokens = torch.tensor([model.tokenizer.encode("Bekdok lives in Kanbak.")])
    with model.edit(Scale("blocks.0.mixer_out", 16.0, channels=planted.channels)):
        mended = model(tokens)
    clean = plain(tokens)
    assert not torch.allclose(model(tokens), clean, atol=0.1)
    torch.testing.assert_close(mended, clean, atol=1e-3, rtol=0)
    assert price_texts(model, [], file=None, limit=2).texts == price_texts(plain, [], file=None, limit=2).texts

    assert plant_into("tiny-mamba2:mixer_out:1/16:0", folder) == (planted, True)
    (folder / "config.json").write_text("{}")  # what is damaged grows anew
    assert plant_into("tiny-mamba2:mixer_out:1/16:0", folder) == (planted, False)
    assert load(folder).digest == planted.digest


def test_what_the_search_found_of_the_damage_is_counted(tmp_path: Path) -> None:
    plant = find_plant("tiny-mamba2:mixer_out:1/16:0")
    planted = PlantedModel(plant, tmp_path / PLANTED, tuple(range(16)), "digest")

    def found(*parts: Part) -> str:
        return planted.found(Recipe(parts, "digest"))

    exact = Part("scale_channels", "mixer_out", (0,), 16.0, channels=tuple(range(16)))
    some = Part("scale_channels", "mixer_out", (0,), 4.0, channels=(3, 15, 16))
    elsewhere = Part("scale_channels", "mixer_out", (1,), 4.0, channels=(3,))
    assert "16 of the 16 damaged channels" in found(exact) and "and no others of blocks.0.mixer_out" in found(exact)
    assert "2 of the 16 damaged channels" in found(some) and "and 1 other of blocks.0.mixer_out" in found(some)
    assert "0 of the 16" in found(elsewhere) and found(elsewhere).endswith("and blocks.1.mixer_out.")
    assert "left it as it is" in found()


def test_a_dry_run_lists_the_stages_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, _ = run("--dry-run", "--out", str(tmp_path / "out"), "--seed", "7", capsys=capsys)
    assert [line.split(":")[0] for line in plan["stages"]] == [
        "prompts", "classify", f"plant {PLANTED}", f"interp {PLANTED}", f"eval {PLANTED}", "interp tiny-mamba2",
        "eval tiny-mamba2", "report",
    ]  # fmt: skip
    assert plan["config"]["seed"] == 7
    assert not (tmp_path / "out").exists()


def test_the_shipped_configuration_is_the_defaults() -> None:
    assert load_config(QuickstartConfig, ROOT / "configs" / "quickstart.yaml", []) == QuickstartConfig.model_validate(
        {}
    )


def test_i12_two_models_of_one_name_are_refused() -> None:
    for models in ("[a/tiny, b/tiny]", f"[runs/{PLANTED}]"):
        with pytest.raises(UsageError, match="same folder"):
            load_config(QuickstartConfig, None, [f"models={models}"])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--models", "tiny-mamba3"], 3, "no model 'tiny-mamba3'"),
        (["--models", ""], 2, "--models"),
        (["--plant", "tiny-mamba2:mixer"], 2, "unknown plant 'tiny-mamba2:mixer'; "),
        (["--plant", "tiny-mamba2:mixer_out:carrier", "--dry-run"], 2, "nothing is damaged in it"),
        (["--plant", "tiny-mamba2:mixer.B:state_only"], 2, "no change of weights"),
        (["--set", "per_level=0"], 2, "per_level"),
        (["--set", "steering.draw=2"], 2, "draws"),
        (["--out", "taken"], 2, "is a file, not a folder"),
    ],
)
def test_what_is_wrong_is_one_sentence(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    code: int,
    words: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "taken").touch()
    assert main(["quickstart", "-q", *arguments]) == code
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    assert words in captured.err


@pytest.mark.slow
def test_the_planted_damage_is_mended_and_the_undamaged_model_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    fewer = {
        "interp.steps": "[activations]",  # what is looked at inside decides nothing of this, and takes as long again
        "per_level": 12,
        "steering.development_limit": 16,
        "steering.budget": 470_000,  # the smallest search there is
        "steering.price_limit": 8,
        "steering.controls": "[random,high_variance]",
    }
    words = [word for name, value in fewer.items() for word in ("--set", f"{name}={value}")]
    result, _ = run(*words, "--out", str(out), capsys=capsys)
    planted, undamaged = result["in_short"]
    assert (planted["model"], planted["verdict"]) == (PLANTED, "supported")
    assert (undamaged["model"], undamaged["verdict"]) == ("tiny-mamba2", "left_alone")
    assert planted["unsteered"] < 0.2 < undamaged["unsteered"] and planted["control"] < 0.2
    restored = (planted["steered"] - planted["unsteered"]) / (undamaged["unsteered"] - planted["unsteered"])
    assert restored > 0.8
    assert planted["price"] < 0 and undamaged["price"] == 0
    record = json.loads((out / "run.json").read_text(encoding="utf-8"))
    said, model = record["details"]["planted"], load(out / "models" / PLANTED)
    assert said["plant"]["name"] == record["config"]["plant"] and said["digest"] == model.digest
