"""One data cache for all tests of cycles."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cycle.harness import Bench

from archer.cycle import laboratory


@pytest.fixture(scope="package", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHER_CACHE", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder


@pytest.fixture
def bench(monkeypatch):
    made = Bench()
    monkeypatch.setattr(laboratory, "train_missing", made.train)

    def check(lab, *given):
        return made.check(lab, *given)

    monkeypatch.setattr(laboratory.Laboratory, "check", check)
    monkeypatch.setattr(laboratory.Laboratory, "report", lambda lab, cycle, **more: ())
    monkeypatch.setattr(laboratory.Laboratory, "facts", lambda lab, cycle, **more: None)
    return made
