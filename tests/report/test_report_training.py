"""Trainings on the page: curves, held-out sets, spikes, skipped steps, and runs over each other."""

from __future__ import annotations

import json
import math
import random
import re
from pathlib import Path

from mplat.commands import main
from mplat.report import load, render
from mplat.report.charts.training_curves import curves
from mplat.report.sections.training import spikes
from report_runs import record

SETS = ("ArXiv", "FreeLaw", "GitHub", "Pile-CC", "PubMed", "USPTO", "Wikipedia (en)")


def write_training(folder: Path, *, batch: int = 1000, steps: int = 600, slow: float = 1.0) -> Path:
    """A training with spikes at 200 and 401, a skipped step 300, and held-out sets that differ by 0.1."""
    noise = random.Random(1)
    lines: list[dict[str, object]] = []
    for step in range(1, steps + 1):
        loss = 2 + 6 * math.exp(-step / (100 * slow)) + noise.gauss(0, 0.02)
        loss += {200: 3.0, 400: 1.0, 401: 2.0}.get(step, 0.0)
        values = {"kind": "train", "step": step, "loss": loss, "tokens": batch * step, "skipped": False}
        if step == 300:
            values |= {"loss": None, "skipped": True}
        lines.append(values)
        if step % 100 == 0:
            bits = {f"bits_per_byte/{name}": 1 + 0.1 * i + 1 / step for i, name in enumerate(SETS)}
            lines.append({"kind": "eval", "step": step, "loss": loss, "bits_per_byte": 1.5 + 1 / step} | bits)
    folder.mkdir(parents=True)
    (folder / "run.json").write_text(json.dumps(record("train", "toy")))
    (folder / "log.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


def test_spikes_are_those_that_were_planted_and_noise_is_none():
    noise = random.Random(3)
    calm = [(float(s), 3 - s / 500 + noise.gauss(0, 0.1)) for s in range(1, 500)]
    assert spikes(calm) == [] and spikes(calm[:20]) == []
    wild = [(s, v + {100: 2.0, 101: 4.0, 102: 1.5, 300: 3.0}.get(int(s), 0.0)) for s, v in calm]
    found = spikes(wild)
    assert [spike.step for spike in found] == [101, 300]
    assert all(abs(spike.usual - (3 - spike.step / 500)) < 0.15 and spike.loss > spike.usual + 2.5 for spike in found)
    flat = [(float(s), 1.0) for s in range(100)]
    assert spikes(flat) == [] and [s.step for s in spikes([*flat, (100.0, 1.04), (101.0, 1.06)])] == [101]


def test_a_run_has_its_sets_spikes_and_skipped_steps(tmp_path):
    (training,) = load([write_training(tmp_path / "run")]).trainings
    assert [spike.step for spike in training.spikes] == [200, 401] and training.skipped == (300,)
    assert (training.steps, training.tokens_per_step) == (600, 1000)
    assert dict(training.sets)["FreeLaw"] == tuple((s, 1.1 + 1 / s) for s in range(100, 700, 100))
    assert len(training.mean_loss) == 100 and abs(training.mean_loss[-1][1] - 2.0) < 0.05
    page = render(load([tmp_path / "run"]))
    words = " ".join(re.sub(r"<svg.*?</svg>", "", page, flags=re.S).split())
    assert (
        "600 steps and 600,000 tokens; 1 step was skipped" in words and "not finite: 300; 2 spikes of the loss" in words
    )
    for name in SETS:
        assert f'<th scope="row">{name}</th>' in words
    assert "All runs over each other" not in words
    rows = re.findall(r'scope="row">([^<]*)</th><td class="n">([\d.]+)</td><td class="n">([\d.]+)</td>', words)
    assert ("ArXiv", "1.01", "1.002") in [(name, first, best[:5]) for name, first, best in rows]


def test_two_runs_lie_over_each_other_by_tokens(tmp_path, capsys):
    write_training(tmp_path / "one" / "run")
    write_training(tmp_path / "two" / "run", batch=2000, slow=2.0)
    page = tmp_path / "both.html"
    words = ["report", str(tmp_path / "one" / "run"), str(tmp_path / "two" / "run"), "--out", str(page), "--json"]
    assert main(words) == 0
    assert len(json.loads(capsys.readouterr().out)["trainings"]) == 2
    text = page.read_text(encoding="utf-8")
    overlay = text[text.index("All runs over each other") : text.index("Of the training loss")]
    assert overlay.count("<svg") == 3  # training loss, held-out loss, bits per byte; nobody asked questions
    assert overlay.count("one/run") >= 3 and overlay.count("two/run") >= 3 and "tokens" in overlay


def test_lines_of_many_runs_stay_apart():
    lines = {f"run {i}": [(0.0, float(i)), (1.0, float(i))] for i in range(12)}
    svg = curves("many", "many", lines, y_label="y")
    looks = re.findall(r'<path[^>]*style="fill: none; (stroke-dasharray: [^;]*; )?[^"]*stroke: ([^;"]+)', svg)
    drawn = [look for look in looks if "series" in look[1]]
    assert len({look for look in drawn}) == 12


def test_samples_stand_by_prompt_and_step_as_text(tmp_path):
    folder = write_training(tmp_path / "run", steps=30)
    said = [{"kind": "sample", "step": step, "prompt": prompt, "greedy": f"<b>after {step}</b>", "drawn": ""}
            for step in range(10, 310, 10) for prompt in ("One <i>day", "The")]  # fmt: skip
    with (folder / "log.jsonl").open("a") as log:
        log.write("".join(json.dumps(line) + "\n" for line in said))
    (training,) = load([folder]).trainings
    assert [s.step for s in training.samples if s.prompt == "The"] == list(range(10, 310, 10))
    page = render(load([folder]))
    assert "<h4>One &lt;i&gt;day</h4>" in page and "<b>after" not in page
    shown = re.findall(r"&lt;b&gt;after (\d+)&lt;/b&gt;</td><td>\(nothing\)", page)
    assert len(shown) == 2 * 8 and shown[0] == "10" and shown[7] == "300"
    assert "What it says as it is trained" not in render(load([write_training(tmp_path / "other", steps=30)]))
