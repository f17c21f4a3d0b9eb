"""Data sets from the cache, from the generators, or from a directory that mad-lab published.

The cache holds one file for each (setting, seed, split, generator version), named by its content's recipe.
Files appear whole or not at all (written aside, then renamed), so several processes may want the same set at
once: the worst that happens is that two of them draw it. A damaged file is drawn again. Where the cache
cannot be written (full disk, read-only folder) the data are drawn each time, with a warning.
"""

from __future__ import annotations

import hashlib
import os
import sys
import uuid
import warnings
import zipfile
import zlib
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from archer.mad.published import load_published
from archer.mad.settings import IGNORED, Setting
from archer.mad.task import Examples, Split
from archer.mad.tasks import GENERATOR_VERSION, generate

_DAMAGE = (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error, NotImplementedError)


class CacheWarning(UserWarning):
    """The cache is not used, or a file in it was damaged. The data are right all the same."""


def load(setting: Setting, seed: int, split: Split, data_dir: str | Path | None = None) -> Examples:
    """The sequences of one split, inputs and targets [N, T] int64.

    With `data_dir` they come from mad-lab's published data instead, and `seed` does not matter (see
    `archer.mad.published`, also for the validation set, which is cut from the training set there).
    Raises SettingError for an unknown split and PublishedDataError for missing or mis-shaped files.
    """
    if data_dir is not None:
        return load_published(setting, split, Path(data_dir))
    try:
        path = cache_path(setting, seed, split)
    except RuntimeError as error:
        _warn(f"there is no home folder for the cache ({error}); set ARCHER_CACHE to keep data between runs")
        return generate(setting, seed, split)
    examples = _read(path, setting, split)
    if examples is None:
        examples = generate(setting, seed, split)
        _write(path, setting, examples)
    return examples


def cache_folder() -> Path:
    """ARCHER_CACHE, or the platform's folder for caches. Raises RuntimeError where there is no home."""
    chosen = os.environ.get("ARCHER_CACHE")
    if chosen:
        return Path(chosen)
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Caches" / "archer"
    if sys.platform == "win32" and os.environ.get("LOCALAPPDATA"):
        return Path(os.environ["LOCALAPPDATA"]) / "archer"
    shared = os.environ.get("XDG_CACHE_HOME")
    return (Path(shared) if shared else Path.home() / ".cache") / "archer"


def cache_path(setting: Setting, seed: int, split: Split) -> Path:
    """Where one split is kept; the name carries a hash of everything that decides its content."""
    recipe = repr((GENERATOR_VERSION, sorted(asdict(setting).items()), seed, split))
    digest = hashlib.blake2b(recipe.encode(), digest_size=8).hexdigest()
    return cache_folder() / "mad" / f"{setting.name}-seed{seed}-{split}-{digest}.npz"


def _read(path: Path, setting: Setting, split: Split) -> Examples | None:
    """The file's content; None where there is no file, or (with a warning) where it is damaged."""
    try:
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            inputs, targets = file["inputs"], file["targets"]
    except FileNotFoundError:
        return None
    except _DAMAGE as error:
        _warn(f"{path} could not be read ({type(error).__name__}: {error}) and is drawn again")
        return None
    problem = _find_problem(inputs, targets, setting, split)
    if problem:
        _warn(f"{path} is not what it should be ({problem}) and is drawn again")
        return None
    return Examples(inputs.astype(np.int64), targets.astype(np.int64))


def _find_problem(
    inputs: np.ndarray[Any, Any], targets: np.ndarray[Any, Any], setting: Setting, split: Split
) -> str:
    expected = (setting.examples_in(split), setting.input_length)
    if inputs.shape != expected or targets.shape != expected:
        return f"shapes {inputs.shape} and {targets.shape}, expected {expected}"
    if inputs.dtype.kind != "i" or targets.dtype.kind != "i":
        return f"types {inputs.dtype} and {targets.dtype}, expected whole numbers"
    if inputs.min() < 0 or max(inputs.max(), targets.max()) >= setting.vocabulary or targets.min() < IGNORED:
        return f"tokens outside 0 to {setting.vocabulary - 1}"
    return ""


def _write(path: Path, setting: Setting, examples: Examples) -> None:
    """Keeps the examples under `path`, whole or not at all; a cache that cannot be written is a warning."""
    small = np.int16 if setting.vocabulary <= np.iinfo(np.int16).max else np.int32
    aside = path.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with aside.open("wb") as file:
                np.savez(file, inputs=examples.inputs.astype(small), targets=examples.targets.astype(small))
            os.replace(aside, path)
        finally:
            aside.unlink(missing_ok=True)
    except OSError as error:
        _warn(f"the cache {path.parent} cannot be written ({error}); data are drawn again each time")


def _warn(message: str) -> None:
    warnings.warn(message, CacheWarning, stacklevel=3)
