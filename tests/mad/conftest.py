"""The samples that mad-lab's own generators drew, and a place for what these tests share."""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))

from archer.mad import Examples, Setting  # noqa: E402
from archer.mad.settings import (  # noqa: E402
    COMPRESS,
    CONTEXT_RECALL,
    FUZZY_RECALL,
    MEMORIZE,
    NOISY_RECALL,
    SELECTIVE_COPY,
)

TASK_OF_FILE = {
    "compression": COMPRESS,
    "in-context-recall": CONTEXT_RECALL,
    "fuzzy-in-context-recall": FUZZY_RECALL,
    "memorization": MEMORIZE,
    "noisy-in-context-recall": NOISY_RECALL,
    "selective-copying": SELECTIVE_COPY,
}
FIELD_OF_KEY = {
    "vocab_size": "vocabulary",
    "seq_len": "length",
    "k_motif_size": "key_motif",
    "v_motif_size": "value_motif",
    "frac_noise": "noise_fraction",
    "noise_vocab_size": "noise_vocabulary",
    "num_tokens_to_copy": "tokens_to_copy",
    "multi_query": "multi_query",
}


@dataclass(frozen=True, eq=False)
class Sample:
    """128 training and 128 test sequences of a setting, drawn by mad-lab. table: Memorize's facts [K, 2]."""

    name: str
    setting: Setting
    train: Examples = field(repr=False)
    test: Examples = field(repr=False)
    table: np.ndarray[Any, Any] | None = field(repr=False)

    def split(self, split: str) -> Examples:
        return self.train if split == "train" else self.test

    def ours(self, count: int) -> Setting:
        """The same setting with `count` sequences in every split."""
        return replace(self.setting, train_examples=count, test_examples=count, validation_examples=count)


def read_sample(path: Path) -> Sample:
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    numbers = {FIELD_OF_KEY[key]: value for key, value in json.loads(str(arrays["settings"])).items()}
    task = TASK_OF_FILE[path.stem.rpartition("-")[0]]
    examples = {
        split: Examples(
            arrays[f"{split}_inputs"].astype(np.int64),
            arrays[f"{split}_targets"].astype(np.int64),
        )
        for split in ("train", "test")
    }
    setting = Setting(task, train_examples=128, test_examples=128, validation_examples=128, **numbers)
    return Sample(path.stem, setting, examples["train"], examples["test"], arrays.get("key_to_value"))


SAMPLES = [read_sample(path) for path in sorted((HERE / "samples").glob("*.npz"))]


@pytest.fixture(params=SAMPLES, ids=lambda sample: sample.name)
def sample(request: pytest.FixtureRequest) -> Sample:
    return request.param


@pytest.fixture
def samples() -> list[Sample]:
    return SAMPLES


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test reads or writes the user's cache."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("ARCHER_CACHE", str(folder))
    return folder
