"""The doctor finds what is wrong, says what to do, and ends with 1 exactly if a check fails."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from mplat import diagnosis
from mplat.commands import main
from mplat.diagnosis import Check, diagnose


def _run(capfd, monkeypatch, *checks: Check):
    monkeypatch.setattr(diagnosis, "CHECKS", tuple(lambda check=check: check for check in checks))
    monkeypatch.setattr(diagnosis, "diagnose", lambda: diagnose(diagnosis.CHECKS))
    code = main(["doctor"], prog="mplat")
    captured = capfd.readouterr()
    return code, captured.out, captured.err


def test_all_is_well(capfd, monkeypatch):
    code, out, err = _run(capfd, monkeypatch, Check("python", "ok", "3.11"), Check("memory", "ok", "8 GiB free"))
    assert (code, err) == (0, "")
    assert out == "ok    python  3.11\nok    memory  8 GiB free\n"


def test_a_warning_is_no_failure(capfd, monkeypatch):
    code, out, _ = _run(capfd, monkeypatch, Check("memory", "warn", "1 GiB free", "close other programs"))
    assert code == 0
    assert out == "warn  memory  1 GiB free\n              -> close other programs\n"


def test_a_failure_ends_with_1_after_the_whole_list(capfd, monkeypatch):
    code, out, err = _run(capfd, monkeypatch, Check("cache", "fail", "x", "do y"), Check("kernels", "ok", "torch"))
    assert code == 1
    assert out.count("\n") == 3 and "kernels" in out
    assert err == "error: 1 of 2 checks failed: cache\n"


def test_a_check_that_breaks_is_a_failure_with_its_reason():
    def kernel_backends() -> Check:
        raise ImportError("no module numba")

    (check,) = diagnose((kernel_backends,))
    assert (check.name, check.status, check.found) == ("kernel backends", "fail", "ImportError: no module numba")


def test_every_check_answers_here():
    for check in diagnose(tuple(c for c in diagnosis.CHECKS if c is not diagnosis.shipped_models)):
        assert check.status in ("ok", "warn"), check
        assert check.found
        assert bool(check.advice) == (check.status != "ok"), check


def test_versions_are_those_installed():
    import torch
    import transformers

    found = diagnosis.packages().found
    assert f"torch {torch.__version__}" in found and f"transformers {transformers.__version__}" in found


@pytest.mark.parametrize(
    ("mode", "address", "token", "status"),
    [
        (None, None, False, "ok"),
        (None, None, True, "ok"),
        ("disabled", "head:6379", False, "ok"),
        ("token", "head:6379", True, "ok"),
        ("token", "head:6379", False, "fail"),
        (None, "head:6379", True, "warn"),
        (None, "head:6379", False, "warn"),
        ("tokn", None, False, "fail"),
    ],
)
def test_ray_authentication(monkeypatch, tmp_path, mode, address, token, status):
    for name, value in {"RAY_AUTH_MODE": mode, "RAY_ADDRESS": address, "RAY_AUTH_TOKEN": None}.items():
        monkeypatch.delenv(name, raising=False)
        if value is not None:
            monkeypatch.setenv(name, value)
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "auth_token"))
    if token:
        (tmp_path / "auth_token").write_text("secret-value")
    check = diagnosis.ray_authentication()
    assert check.status == status
    assert "RAY_AUTH" in check.found and "secret-value" not in check.found + check.advice


def test_a_cache_folder_that_cannot_be_written_fails(monkeypatch, tmp_path):
    monkeypatch.setenv("MPLAT_CACHE", str(tmp_path / "new" / "cache"))
    assert diagnosis.cache().status == "ok"
    assert not (tmp_path / "new").exists()  # asking changes nothing
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MPLAT_CACHE", str(tmp_path / "file" / "cache"))
    check = diagnosis.cache()
    assert check.status == "fail" and "MPLAT_CACHE=DIR" in check.advice


def test_the_cache_folder_follows_the_environment(monkeypatch, tmp_path):
    from mplat.core.folders import cache_folder

    monkeypatch.setenv("MPLAT_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("MPLAT_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "mplat"
    monkeypatch.delenv("XDG_CACHE_HOME")
    assert cache_folder() == Path.home() / ".cache" / "mplat"


def _shipped(monkeypatch, tmp_path, digest: str | None):
    from mplat.models import ModelConfig, build
    from mplat.models.files import catalog

    config = ModelConfig("mamba", vocab_size=16, d_model=8, n_layers=1, state_size=2)
    model = build(config, seed=0)
    folder = tmp_path / "tiny-test"
    model.save(folder)
    if digest is not None:
        (folder / "DIGEST").write_text(digest + "\n")
    monkeypatch.setattr(catalog, "shipped", lambda: {"tiny-test": folder})
    return folder


def test_shipped_models_must_be_what_was_shipped(monkeypatch, tmp_path):
    from mplat.models import load

    folder = _shipped(monkeypatch, tmp_path, None)
    assert diagnosis.shipped_models().status == "warn"
    (folder / "DIGEST").write_text(load(folder).digest)
    assert diagnosis.shipped_models().status == "ok"
    (folder / "DIGEST").write_text("0" * 64)
    check = diagnosis.shipped_models()
    assert check.status == "fail" and "tiny-test: not what was shipped" in check.found
    os.truncate(folder / "model.safetensors", 100)
    assert diagnose((diagnosis.shipped_models,))[0].status == "fail"


@pytest.mark.slow
def test_models_and_sites_say_in_json_what_the_library_says(capfd):
    from mplat.models import build
    from mplat.models.files import catalog

    assert main(["models", "--json"]) == 0
    names = [model["name"] for model in json.loads(capfd.readouterr().out)["models"]]
    assert names == [entry.name for entry in catalog.entries()]
    name = "state-spaces/mamba-130m-hf"
    assert main(["sites", name, "--json"]) == 0
    found = json.loads(capfd.readouterr().out)
    sites = build(catalog.shape(name), device="meta").sites()
    assert [site["name"] for site in found["sites"]] == [site.name for site in sites]
    assert main(["sites", name]) == 0
    assert "blocks.{i}.mixer.delta" in capfd.readouterr().out


def test_sites_of_a_model_that_is_not_there(capfd):
    assert main(["sites", "no-such-model"]) == 3
    assert capfd.readouterr().err.startswith("error: no model 'no-such-model'")
