"""`mplat quickstart` on models of a few thousand weights: every stage runs, a page is made, nothing is done twice."""

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
from mplat.models import ModelConfig, build
from mplat.quickstart import QuickstartConfig

ROOT = Path(__file__).resolve().parents[2]
TOKENIZER = ROOT / "platform" / "models" / "tiny" / "tokenizer"
STAGES = ["prompts", "classify", "interp one", "eval one", "interp two", "eval two", "report"]


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration with two random nano models and a few prompts."""
    folder = tmp_path_factory.mktemp("quickstart")
    for name, arch in (("one", "mamba"), ("two", "mamba2")):
        shape = ModelConfig(arch, vocab_size=1024, d_model=16, n_layers=2, state_size=4, head_dim=8)
        build(shape, seed=0, dtype=torch.float32).save(folder / name)
        for file in TOKENIZER.iterdir():
            shutil.copy(file, folder / name)
    values = {
        "models": [str(folder / "one"), str(folder / "two")],
        "per_level": 4,
        "classify": {"per_level": 2},
        "steering": {"draws": 1, "development_limit": 4, "sites": ["mixer_out"], "price_limit": 4},
    }
    path = folder / "quickstart.yaml"
    path.write_text(yaml.safe_dump(values), encoding="utf-8")
    return path


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MPLAT_CACHE", str(tmp_path_factory.getbasetemp() / "quickstart-cache"))


def run(*arguments: str, capsys: pytest.CaptureFixture[str]) -> tuple[dict[str, Any], str]:
    code = main(["quickstart", "--json", *arguments])
    captured = capsys.readouterr()
    assert code == 0, captured.err
    return json.loads(captured.out), captured.err


def test_every_stage_runs_and_a_second_run_computes_nothing_new(
    settings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    first, told = run("--config", str(settings), "--out", str(out), capsys=capsys)
    assert [stage["stage"] for stage in first["stages"]] == STAGES
    for number, name in enumerate(STAGES, 1):
        assert f"{number}/7 {name}: " in told
    page = (out / "report.html").read_text(encoding="utf-8")
    for words in (
        "unsteered",
        "steered",
        ">one<",
        ">two<",
        "simple_recall",
        "mplat quickstart",
    ):
        assert words in page, words
    for name in ("one", "two"):
        summary = first["summaries"][name]
        conditions = summary["overall"]["em"]["conditions"]
        assert {"unsteered", "steered"} <= set(conditions)
        assert any(c.startswith("control_") for c in conditions) or summary["verdict"]["kind"] == "left_alone"
    for file in ("prompts.parquet", "classify/questions.parquet", "interp/one/run.json", "eval/two/items.parquet"):
        assert (out / file).is_file(), file

    tables = {path: path.read_bytes() for path in sorted(out.rglob("*.parquet"))}
    ledgers = {path: path.read_bytes() for path in sorted(out.rglob("ledger.jsonl"))}
    second, told = run("--config", str(settings), "--out", str(out), capsys=capsys)
    assert "4 cached" in told and ", 0 cached" not in told
    assert {path: path.read_bytes() for path in sorted(out.rglob("*.parquet"))} == tables
    assert {path: path.read_bytes() for path in sorted(out.rglob("ledger.jsonl"))} == ledgers and ledgers
    assert second["report_sha256"] == first["report_sha256"]
    assert second["summaries"] == first["summaries"]

    fewer = ["--config", str(settings), "--set", f"models=[{settings.parent / 'one'}]", "--out", str(out)]
    assert main(["quickstart", "-q", *fewer]) == 2
    assert "differs in models" in capsys.readouterr().err and (out / "eval" / "two").is_dir()
    third, _ = run(*fewer, "--fresh", capsys=capsys)
    assert [p.name for p in (out / "eval").iterdir()] == [p.name for p in (out / "interp").iterdir()] == ["one"]
    assert third["summaries"]["one"] == first["summaries"]["one"]


def test_a_dry_run_lists_the_stages_and_writes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, _ = run("--dry-run", "--out", str(tmp_path / "out"), "--seed", "7", capsys=capsys)
    assert [line.split(":")[0] for line in plan["stages"]] == [
        "prompts", "classify", "interp tiny-mamba", "eval tiny-mamba", "interp tiny-mamba2", "eval tiny-mamba2",
        "report",
    ]  # fmt: skip
    assert plan["config"]["seed"] == 7
    assert not (tmp_path / "out").exists()


def test_the_shipped_configuration_is_the_defaults() -> None:
    assert load_config(QuickstartConfig, ROOT / "configs" / "quickstart.yaml", []) == QuickstartConfig.model_validate(
        {}
    )


def test_two_models_of_one_name_are_refused() -> None:
    with pytest.raises(UsageError, match="same folder"):
        load_config(QuickstartConfig, None, ["models=[a/tiny, b/tiny]"])


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["--set", "models=[tiny-mamba3]"], 3, "no model 'tiny-mamba3'"),
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
