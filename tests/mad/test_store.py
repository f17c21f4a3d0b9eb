"""The cache: whole files or none, safe with several processes, never in the way; and published data."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from archer.mad import BASELINES, Examples, Setting, SettingError, generate, load, store
from archer.mad.published import PublishedDataError, folder_name, load_published
from archer.mad.settings import CONTEXT_RECALL, FUZZY_RECALL, IGNORED
from archer.mad.store import CacheWarning, cache_folder, cache_path

SETTING = Setting(CONTEXT_RECALL, 16, 32, train_examples=200, test_examples=64, validation_examples=64)


def same(one: Examples, other: Examples) -> bool:
    return (
        one.inputs.dtype == other.inputs.dtype == np.int64
        and one.targets.dtype == np.int64
        and np.array_equal(one.inputs, other.inputs)
        and np.array_equal(one.targets, other.targets)
    )


@pytest.mark.parametrize("setting", [SETTING, BASELINES[3]], ids=lambda s: s.task)
def test_the_second_time_comes_from_the_cache(setting: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    first = load(setting, 0, "test")
    assert same(first, generate(setting, 0, "test"))
    monkeypatch.setattr(store, "generate", None)
    assert same(load(setting, 0, "test"), first)


def test_everything_that_decides_the_content_decides_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    paths = {
        cache_path(SETTING, 0, "train"),
        cache_path(SETTING, 1, "train"),
        cache_path(SETTING, 0, "test"),
        cache_path(replace(SETTING, vocabulary=32), 0, "train"),
    }
    monkeypatch.setattr(store, "GENERATOR_VERSION", 99)
    paths.add(cache_path(SETTING, 0, "train"))
    assert len(paths) == 5


def test_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_folder() == tmp_path / "cache"
    monkeypatch.delenv("ARCHER_CACHE")
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder() == tmp_path / "xdg" / "archer"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "archer"


def damage_empty(content: bytes) -> bytes:
    return b""


def damage_cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def damage_one_bit_of_a_token(content: bytes) -> bytes:
    middle = len(content) // 3
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def damage_other_file(content: bytes) -> bytes:
    return b"not a data set"


@pytest.mark.parametrize("damage", [damage_empty, damage_cut, damage_one_bit_of_a_token, damage_other_file])
def test_damaged_files_are_drawn_again(damage) -> None:
    first = load(SETTING, 0, "train")
    path = cache_path(SETTING, 0, "train")
    path.write_bytes(damage(path.read_bytes()))
    with pytest.warns(CacheWarning, match="is drawn again"):
        assert same(load(SETTING, 0, "train"), first)
    assert same(load(SETTING, 0, "train"), first)  # mended: no warning, which would be an error here


@pytest.mark.parametrize(
    ("inputs", "targets", "message"),
    [
        (np.zeros((3, 31), np.int16), np.zeros((64, 31), np.int16), r"expected \(64, 31\)"),
        (np.zeros((64, 31)), np.zeros((64, 31)), "expected whole numbers"),
        (np.full((64, 31), 16, np.int16), np.zeros((64, 31), np.int16), "outside 0 to 15"),
        (np.zeros((64, 31), np.int16), np.full((64, 31), -101, np.int16), "outside 0 to 15"),
    ],
)
def test_files_with_other_content_are_drawn_again(inputs, targets, message: str) -> None:
    path = cache_path(SETTING, 0, "test")
    path.parent.mkdir(parents=True)
    np.savez(path, inputs=inputs, targets=targets)
    with pytest.warns(CacheWarning, match=message):
        assert same(load(SETTING, 0, "test"), generate(SETTING, 0, "test"))


def test_cache_that_cannot_be_made_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ARCHER_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(CacheWarning) as caught:
        assert same(load(SETTING, 0, "test"), generate(SETTING, 0, "test"))
    assert any("cannot be written" in str(warning.message) for warning in caught)


@pytest.mark.skipif(hasattr(os, "geteuid") and os.geteuid() == 0, reason="root writes everywhere")
def test_read_only_cache_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tmp_path.chmod(0o500)
    monkeypatch.setenv("ARCHER_CACHE", str(tmp_path / "locked"))
    with pytest.warns(CacheWarning, match="cannot be written"):
        assert same(load(SETTING, 0, "test"), generate(SETTING, 0, "test"))


def test_full_disk_is_a_warning_and_leaves_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    def savez(file, **arrays) -> None:
        file.write(b"the beginning")
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(np, "savez", savez)
    with pytest.warns(CacheWarning, match="No space left"):
        assert same(load(SETTING, 0, "test"), generate(SETTING, 0, "test"))
    assert list(cache_path(SETTING, 0, "test").parent.iterdir()) == []


def test_no_home_folder_is_a_warning(monkeypatch: pytest.MonkeyPatch) -> None:
    def home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("ARCHER_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", home)
    with pytest.warns(CacheWarning, match="set ARCHER_CACHE"):
        assert same(load(SETTING, 0, "test"), generate(SETTING, 0, "test"))


WRITER = """
import sys, time, warnings
from pathlib import Path
import numpy as np
from archer.mad import Setting, generate, load
from archer.mad.store import cache_path
warnings.simplefilter("error")
setting = Setting("Context Recall", 16, 32, train_examples=200, test_examples=64, validation_examples=64)
expected = generate(setting, 0, "train")
Path(sys.argv[1]).touch()
while not Path(sys.argv[2]).exists():
    time.sleep(0.001)
for _ in range(60):
    got = load(setting, 0, "train")
    assert np.array_equal(got.inputs, expected.inputs) and np.array_equal(got.targets, expected.targets)
    cache_path(setting, 0, "train").unlink(missing_ok=True)
print("same")
"""


def test_several_processes_want_the_same_set(tmp_path: Path) -> None:
    """Four processes read, write and delete one file at once; each always gets whole, right data."""
    start = tmp_path / "start"
    ready = [tmp_path / f"ready-{number}" for number in range(4)]
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(mark), str(start)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for mark in ready
    ]
    while not all(mark.exists() or writer.poll() for mark, writer in zip(ready, writers, strict=True)):
        time.sleep(0.01)
    start.touch()
    outputs = [writer.communicate(timeout=120) for writer in writers]
    assert [out.strip() for out, _ in outputs] == ["same"] * 4, outputs
    assert not list((tmp_path / "cache" / "mad").glob(".*.tmp"))


# Data that mad-lab published.


def publish(directory: Path, setting: Setting, seed: str = "12345") -> Path:
    """A folder as mad-lab writes it, filled with our sequences."""
    folder = directory / folder_name(setting, seed)
    for split in ("train", "test"):
        (folder / split).mkdir(parents=True)
        examples = generate(setting, 0, split)
        np.save(folder / split / "inputs.npy", examples.inputs)
        np.save(folder / split / "targets.npy", examples.targets)
    return folder


def test_folder_names_are_mad_labs() -> None:
    assert folder_name(BASELINES[1]) == (
        "t-CR_vs-16_sl-128_ntr-12800_nte-1280_km-1_vm-1_mq-1_fn-0#0_nvs-0_ntc-0_s-12345"
    )
    assert folder_name(BASELINES[4]) == (
        "t-NR_vs-32_sl-128_ntr-12800_nte-1280_km-1_vm-1_mq-1_fn-0#2_nvs-16_ntc-0_s-12345"
    )


def test_published_data_replace_ours(tmp_path: Path) -> None:
    publish(tmp_path, SETTING)
    publish(tmp_path, replace(SETTING, vocabulary=32))
    drawn = generate(SETTING, 0, "train")
    train = load(SETTING, 5, "train", data_dir=tmp_path)
    assert same(train, Examples(drawn.inputs[:180], drawn.targets[:180]))
    assert same(load(SETTING, 5, "test", data_dir=str(tmp_path)), generate(SETTING, 0, "test"))
    assert not cache_folder().exists()


def test_validation_is_cut_from_the_end_of_training_and_scored_like_a_test(tmp_path: Path) -> None:
    publish(tmp_path, SETTING)
    drawn = generate(SETTING, 0, "train")
    validation = load(SETTING, 0, "validation", data_dir=tmp_path)
    np.testing.assert_array_equal(validation.inputs, drawn.inputs[180:])
    scored = validation.targets != IGNORED
    np.testing.assert_array_equal(validation.targets[scored], drawn.targets[180:][scored])
    for row, wanted in zip(validation.inputs.tolist(), scored.tolist(), strict=True):
        seen: set[int] = set()
        for place, token in enumerate(row):
            assert wanted[place] == (token in seen)
            if token < 8:
                seen.add(token)
    assert scored[:, -1].all()


@pytest.mark.parametrize("setting", [BASELINES[0], BASELINES[3], BASELINES[5]], ids=lambda s: s.task)
def test_validation_of_the_other_tasks_keeps_its_targets(tmp_path: Path, setting: Setting) -> None:
    setting = replace(setting, train_examples=50, test_examples=10, validation_examples=3)
    publish(tmp_path, setting)
    drawn = generate(setting, 0, "train")
    expected = Examples(drawn.inputs[-3:], drawn.targets[-3:])
    assert same(load_published(setting, "validation", tmp_path), expected)
    assert len(load_published(setting, "train", tmp_path)) == 47


def test_validation_of_fuzzy_recall_scores_what_is_determined(tmp_path: Path) -> None:
    setting = Setting(FUZZY_RECALL, 16, 64, 300, 10, key_motif=3, value_motif=3)
    publish(tmp_path, setting)
    validation = load_published(setting, "validation", tmp_path)
    assert len(validation) == 30
    scored = validation.targets != IGNORED
    assert scored.any()
    assert (validation.targets[scored] >= 7).all()
    assert (validation.targets[scored] < 15).all()


def test_other_seeds_are_found_and_mad_labs_own_comes_first(tmp_path: Path) -> None:
    publish(tmp_path, SETTING, seed="7")
    load_published(SETTING, "test", tmp_path)
    publish(tmp_path, SETTING, seed="8")
    with pytest.raises(PublishedDataError, match=r"several data sets .* Keep one"):
        load_published(SETTING, "test", tmp_path)
    publish(tmp_path, SETTING)
    assert load_published(SETTING, "test", tmp_path).inputs.shape == (64, 31)


def test_missing_and_misshaped_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(PublishedDataError, match="is not a folder"):
        load(SETTING, 0, "test", data_dir=tmp_path / "nowhere")
    with pytest.raises(PublishedDataError, match=r"holds no t-\* folder"):
        load(SETTING, 0, "test", data_dir=tmp_path)
    folder = publish(tmp_path, SETTING)
    with pytest.raises(PublishedDataError, match=r"expected a folder t-CR_vs-64.*Did you mean 't-CR_vs-16"):
        load(replace(SETTING, vocabulary=64), 0, "test", data_dir=tmp_path)
    with pytest.raises(SettingError, match="no split"):
        load(SETTING, 0, "dev", data_dir=tmp_path)  # type: ignore[arg-type]
    path = folder / "test" / "targets.npy"
    right = np.load(path)
    for wrong, message in [
        (right[:5], r"targets\.npy holds int64 \(5, 31\), expected whole numbers \(64, 31\)"),
        (right.astype(float), "holds float64"),
        (np.where(right == IGNORED, -1, right), "row 0, column 0 is -1; expected tokens 0 to 15 or -100"),
        (np.where(right == IGNORED, 16, right), "row 0, column 0 is 16"),
    ]:
        np.save(path, wrong)
        with pytest.raises(PublishedDataError, match=message):
            load(SETTING, 0, "test", data_dir=tmp_path)
    path.write_bytes(b"broken")
    with pytest.raises(PublishedDataError, match="not a numpy file"):
        load(SETTING, 0, "test", data_dir=tmp_path)
    path.unlink()
    with pytest.raises(PublishedDataError, match=r"targets\.npy is missing; expected 64 sequences"):
        load(SETTING, 0, "test", data_dir=tmp_path)


def test_loading_is_silent() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load(SETTING, 0, "train")
        load(SETTING, 0, "train")
