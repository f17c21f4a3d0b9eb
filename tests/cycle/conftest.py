"""One data cache for all tests of cycles, and what they do not wait for."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.cycle.harness import Bench

from archer.cycle import laboratory
from archer.rules import get_rule, load_rule
from archer.verify import layer_cost


@pytest.fixture(scope="package", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ARCHER_CACHE", str(folder))
        patch.setenv("OMP_NUM_THREADS", "1")
        yield folder


@pytest.fixture
def counted_here(monkeypatch):
    """What a rule's layer costs, counted in this process. Behind the walls, where `tests/verify` and whole
    cycles count it, that takes seconds."""

    def count(names, texts, size, decoding):
        known = dict(texts)

        def find(name):
            return load_rule(known[name], name, find) if name in known else get_rule(name)

        return {name: layer_cost.measure_layer(find(name), size, decoding) for name in names}

    monkeypatch.setattr(layer_cost, "_contained", count)


@pytest.fixture
def bench(monkeypatch, counted_here):
    made = Bench()
    monkeypatch.setattr(laboratory, "train_missing", made.train)

    def check(lab, *given):
        return made.check(lab, *given)

    monkeypatch.setattr(laboratory.Laboratory, "check", check)
    monkeypatch.setattr(laboratory.Laboratory, "report", lambda lab, cycle, **more: ())
    monkeypatch.setattr(laboratory.Laboratory, "facts", lambda lab, cycle, **more: None)
    return made
