"""Whatever a file holds, a reader reads it or says in one sentence what is wrong: no traceback, no endless loop, no
memory taken because a number says so."""

from __future__ import annotations

import random
import resource
import shutil
import time
from pathlib import Path

import pytest
from hostile_readers import READERS
from mplat.core.errors import MplatError
from mutations import mutated

CASES, SECONDS, GROWTH_KIB = 120, 3.0, 1 << 20


def faults(name: str, folder: Path, seeds: range) -> list[str]:
    """What goes wrong with the reader `name` given one damaged folder for every seed."""
    reader = READERS[name]
    whole = folder / "whole"
    reader.make(whole)
    reader.read(whole)  # what is whole is read
    found = []
    for seed in seeds:
        rng = random.Random(f"{name} {seed}")
        place = folder / "damaged"
        shutil.copytree(whole, place)
        file, kind = rng.choice(list(reader.files.items()))
        (place / file).write_bytes(mutated((whole / file).read_bytes(), kind, rng))
        if rng.random() < 0.7:
            reader.mend(place)
        started = time.process_time()
        try:
            reader.read(place)
        except MplatError as error:
            if len(lines := str(error).splitlines()) != 1 or len(lines[0]) > 2000:
                found.append(f"seed {seed} of {file}: not one sentence: {str(error)[:300]!r}")
        except Exception as error:
            found.append(f"seed {seed} of {file}: {type(error).__name__}: {str(error)[:300]}")
        if (taken := time.process_time() - started) > SECONDS:
            found.append(f"seed {seed} of {file}: took {taken:.1f} s")
        shutil.rmtree(place)
    return found


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", READERS)
def test_a_damaged_file_is_one_sentence(name: str, tmp_path: Path) -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert not faults(name, tmp_path, range(CASES))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < GROWTH_KIB


@pytest.mark.parametrize("name", ["model mamba", "recipe", "questions", "ledger", "checkpoints"])
def test_a_few_damaged_files(name: str, tmp_path: Path) -> None:
    assert not faults(name, tmp_path, range(12))
