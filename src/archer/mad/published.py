"""mad-lab's published benchmark data: `t-*/{train,test}/{inputs,targets}.npy`, one folder for each setting.

A folder's name spells its setting, for instance

    t-CR_vs-16_sl-128_ntr-12800_nte-1280_km-1_vm-1_mq-1_fn-0#0_nvs-0_ntc-0_s-12345

(task, vocabulary, length, training and test examples, key and value motif, multi query, noise fraction with
'#' for the point, noise vocabulary, tokens to copy, seed). Folders are found by these numbers, in any order,
whatever the seed.

There is no validation set among them, so one is cut from the training set: its last tenth, at most
`validation_examples` and at least one sequence, is held out and the rest is trained on (800 to 11,520
sequences instead of 800 to 12,800). In the recall tasks the training targets are the whole sequence; those
of the validation set are made as in a test set: what an exact reader can answer. In Fuzzy Recall these
sequences have keys of every size, as in training, where a test set has the largest only.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from archer.errors import UserError
from archer.mad.settings import (
    COMPRESS,
    CONTEXT_RECALL,
    FUZZY_RECALL,
    IGNORED,
    MEMORIZE,
    NOISY_RECALL,
    SELECTIVE_COPY,
    Setting,
    SettingError,
    nearest,
)
from archer.mad.task import SPLITS, UNANSWERED, Examples, Split
from archer.mad.tasks import TASKS

SHORTHANDS = {
    COMPRESS: "C",
    CONTEXT_RECALL: "CR",
    FUZZY_RECALL: "FR",
    MEMORIZE: "M",
    NOISY_RECALL: "NR",
    SELECTIVE_COPY: "SC",
}
USUAL_SEED = "12345"

Array = np.ndarray[Any, Any]


class PublishedDataError(UserError):
    """Files of a published data set that are missing or are not what the setting says."""


def load_published(setting: Setting, split: Split, directory: Path) -> Examples:
    """One split of a setting, [N, T] int64. Raises PublishedDataError with what was found and expected."""
    if split not in SPLITS:
        raise SettingError(f"no split is named {split!r}.{nearest(str(split), SPLITS)}")
    folder = find_folder(setting, directory)
    if split == "test":
        return _read(setting, folder / "test", setting.test_examples)
    train = _read(setting, folder / "train", setting.train_examples)
    held_out = max(1, min(setting.validation_examples, len(train) // 10))
    if split == "train":
        return Examples(train.inputs[:-held_out], train.targets[:-held_out])
    return _score_like_a_test(setting, Examples(train.inputs[-held_out:], train.targets[-held_out:]))


def folder_fields(setting: Setting) -> dict[str, str]:
    """What a folder's name says of a setting, without the seed: {'t': 'CR', 'vs': '16', ...}."""
    return {
        "t": SHORTHANDS[setting.task],
        "vs": str(setting.vocabulary),
        "sl": str(setting.length),
        "ntr": str(setting.train_examples),
        "nte": str(setting.test_examples),
        "km": str(setting.key_motif),
        "vm": str(setting.value_motif),
        "mq": str(int(setting.multi_query)),
        "fn": str(float(setting.noise_fraction)).replace(".", "#"),
        "nvs": str(setting.noise_vocabulary),
        "ntc": str(setting.tokens_to_copy),
    }


def folder_name(setting: Setting, seed: str = USUAL_SEED) -> str:
    """The folder's name as mad-lab writes it."""
    return "_".join(f"{key}-{value}" for key, value in {**folder_fields(setting), "s": seed}.items())


def find_folder(setting: Setting, directory: Path) -> Path:
    """The folder of a setting. Of several seeds, mad-lab's own is taken."""
    if not directory.is_dir():
        raise PublishedDataError(
            f"{directory} is not a folder; expected one that holds mad-lab's t-* folders"
        )
    folders = sorted(path for path in directory.iterdir() if path.is_dir() and path.name.startswith("t-"))
    if not folders:
        raise PublishedDataError(
            f"{directory} holds no t-* folder; expected for instance {folder_name(setting)}"
        )
    wanted = folder_fields(setting)
    found = [path for path in folders if _matches(_parse(path.name), wanted)]
    usual = [path for path in found if _parse(path.name).get("s", USUAL_SEED) == USUAL_SEED]
    if len(usual or found) == 1:
        return (usual or found)[0]
    if found:
        names = ", ".join(path.name for path in found)
        raise PublishedDataError(
            f"{directory} holds several data sets of {setting.name}: {names}. Keep one of them"
        )
    close = nearest(folder_name(setting), [path.name for path in folders]).split(" Choices:")[0]
    raise PublishedDataError(
        f"{directory} holds no data of {setting.name}; expected a folder {folder_name(setting)} "
        f"(any seed) among its {len(folders)} folders.{close}"
    )


def _parse(name: str) -> dict[str, str]:
    pairs = (part.partition("-") for part in name.split("_"))
    return {key: value for key, _, value in pairs}


def _matches(fields: dict[str, str], wanted: dict[str, str]) -> bool:
    return all(_same(fields.get(key), value) for key, value in wanted.items())


def _same(found: str | None, wanted: str) -> bool:
    """Equal as text or as numbers: `0#20` is `0#2`."""
    if found is None:
        return False
    try:
        return float(found.replace("#", ".")) == float(wanted.replace("#", "."))
    except ValueError:
        return found == wanted


def _read(setting: Setting, folder: Path, count: int) -> Examples:
    inputs = _read_array(folder / "inputs.npy", setting, count, lowest=0)
    targets = _read_array(folder / "targets.npy", setting, count, lowest=IGNORED)
    return Examples(inputs, targets)


def _read_array(path: Path, setting: Setting, count: int, lowest: int) -> Array:
    try:
        array = np.load(path, allow_pickle=False)
    except FileNotFoundError:
        raise PublishedDataError(f"{path} is missing; expected {count} sequences of {setting.name}") from None
    except (OSError, ValueError, EOFError) as error:
        raise PublishedDataError(f"{path} is not a numpy file that can be read: {error}") from error
    expected = (count, setting.input_length)
    if not isinstance(array, np.ndarray) or array.shape != expected or array.dtype.kind not in "iu":
        what = f"{array.dtype} {array.shape}" if isinstance(array, np.ndarray) else type(array).__name__
        raise PublishedDataError(f"{path} holds {what}, expected whole numbers {expected} for {setting.name}")
    array = array.astype(np.int64)
    wrong = (array >= setting.vocabulary) | ((array < 0) & (array != lowest))
    if wrong.any():
        row, column = np.argwhere(wrong)[0]
        raise PublishedDataError(
            f"{path} row {row}, column {column} is {array[row, column]}; "
            f"expected tokens 0 to {setting.vocabulary - 1}{' or -100' if lowest < 0 else ''}"
        )
    return array


def _score_like_a_test(setting: Setting, examples: Examples) -> Examples:
    """Recall: only what a reader can answer is scored, as in a test set. The other tasks are the same."""
    if setting.task not in (CONTEXT_RECALL, FUZZY_RECALL, NOISY_RECALL):
        return examples
    answers = TASKS[setting.task].solve(setting, examples.inputs, None)
    targets = np.where(answers == UNANSWERED, IGNORED, examples.targets)
    return Examples(examples.inputs, targets)
