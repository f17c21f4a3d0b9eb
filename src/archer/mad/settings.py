"""The settings of MAD: a task at one difficulty, and mad-lab's 66 of them (Poli 2024, arXiv:2403.17844).

`length` is what mad-lab calls `seq_len`. What a model really reads is `input_length`:

    Compress        length          the last token is the compression token
    Context Recall  length - 1      the last value is only a target (length when multi_query is False)
    Fuzzy Recall    length          padded at the left
    Memorize        length
    Noisy Recall    length - 1      as Context Recall
    Selective Copy  length
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass, replace
from math import perm

from archer.errors import UserError

COMPRESS = "Compress"
CONTEXT_RECALL = "Context Recall"
FUZZY_RECALL = "Fuzzy Recall"
MEMORIZE = "Memorize"
NOISY_RECALL = "Noisy Recall"
SELECTIVE_COPY = "Selective Copy"

TASK_NAMES = (COMPRESS, CONTEXT_RECALL, FUZZY_RECALL, MEMORIZE, NOISY_RECALL, SELECTIVE_COPY)
"""Display names, in the order of every table."""

IGNORED = -100
"""The target of a position that is neither trained on nor scored."""

BATCH_SIZE = 128
"""mad-lab's batch, which its score also averages over."""


class SettingError(UserError):
    """A setting that cannot exist, or a name that is not known."""


@dataclass(frozen=True)
class Setting:
    """One task at one difficulty. Everything that decides the data, apart from seed and split.

    vocabulary: number of tokens, the special ones and the noise tokens included.
    length: mad-lab's `seq_len` (see the module's table for the length a model reads).
    noise_vocabulary, noise_fraction: Noisy Recall only; the noise tokens are part of `vocabulary`.
    tokens_to_copy: Selective Copy only.
    key_motif, value_motif: Fuzzy Recall only; the largest number of tokens in a key and in a value.
    multi_query: every repeated key is probed (the benchmark), or only the last one, after a prefix token.

    Raises SettingError where no sequence of that kind exists.
    """

    task: str
    vocabulary: int
    length: int
    train_examples: int
    test_examples: int = 1280
    validation_examples: int = 1280
    noise_vocabulary: int = 0
    noise_fraction: float = 0.0
    tokens_to_copy: int = 0
    key_motif: int = 1
    value_motif: int = 1
    multi_query: bool = True

    def __post_init__(self) -> None:
        problem = find_problem(self)
        if problem:
            raise SettingError(f"no such {self.task} setting: {problem}")

    @property
    def slug(self) -> str:
        return self.task.lower().replace(" ", "-")

    @property
    def name(self) -> str:
        """Short, unique and stable: `context-recall-v16-t128-n12800`; extras follow where they apply."""
        parts = [f"{self.slug}-v{self.vocabulary}-t{self.length}-n{self.train_examples}"]
        if self.noise_vocabulary:
            parts.append(f"noise{self.noise_vocabulary}x{self.noise_fraction:g}")
        if self.tokens_to_copy:
            parts.append(f"copy{self.tokens_to_copy}")
        if self.task == FUZZY_RECALL:
            parts.append(f"motif{self.key_motif}x{self.value_motif}")
        if not self.multi_query:
            parts.append("single")
        if self.test_examples != 1280:
            parts.append(f"test{self.test_examples}")
        if self.validation_examples != 1280:
            parts.append(f"validation{self.validation_examples}")
        return "-".join(parts)

    @property
    def input_length(self) -> int:
        """T: how many tokens a model reads in one sequence."""
        shifted = self.task in (CONTEXT_RECALL, NOISY_RECALL) and self.multi_query
        return self.length - 1 if shifted else self.length

    def examples_in(self, split: str) -> int:
        """Number of sequences in 'train', 'validation' or 'test'."""
        return {
            "train": self.train_examples,
            "validation": self.validation_examples,
            "test": self.test_examples,
        }[split]


@dataclass(frozen=True)
class Tokens:
    """Who is who in a vocabulary: half-open ranges for keys, values and noise, and the special tokens.

    content: tokens that carry information in Compress and Selective Copy, [0, content).
    special: the compression token, insert token, copy token or copy prefix (None where there is none).
    """

    keys: int
    values_end: int
    noise_end: int
    content: int
    special: int | None
    blank: int | None


def tokens_of(setting: Setting) -> Tokens:
    """The layout of the vocabulary: keys [0, keys), values [keys, values_end), noise, then specials."""
    vocabulary = setting.vocabulary
    special, blank, reserved = vocabulary - 1, None, 1
    if setting.task in (CONTEXT_RECALL, NOISY_RECALL) and setting.multi_query:
        special, reserved = None, 0
    if setting.task == FUZZY_RECALL:
        special, blank, reserved = (
            (None, vocabulary - 1, 1) if setting.multi_query else (special, vocabulary - 2, 2)
        )
    if setting.task == SELECTIVE_COPY:
        blank, reserved = vocabulary - 2, 2
    values_end = vocabulary - reserved - setting.noise_vocabulary
    return Tokens(
        keys=values_end // 2,
        values_end=values_end,
        noise_end=values_end + setting.noise_vocabulary,
        content=values_end,
        special=special,
        blank=blank,
    )


def find_problem(setting: Setting) -> str | None:
    """Why the setting cannot exist, in words; None where it can."""
    return _unknown_task(setting) or _bad_counts(setting) or _unused(setting) or _bad_task_numbers(setting)


def _unknown_task(setting: Setting) -> str | None:
    if setting.task in TASK_NAMES:
        return None
    return f"the task {setting.task!r} is not known.{nearest(setting.task, TASK_NAMES)}"


def _bad_counts(setting: Setting) -> str | None:
    for field in ("vocabulary", "length", "train_examples", "test_examples", "validation_examples"):
        value = getattr(setting, field)
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            return f"{field} is {value!r}, expected a whole number of at least 1"
    if setting.vocabulary > 2**20:
        return f"vocabulary is {setting.vocabulary}, expected at most {2**20}"
    return None


def _unused(setting: Setting) -> str | None:
    """Numbers that the task does not read would give two names to one data set."""
    noisy = setting.task == NOISY_RECALL
    if not noisy and (setting.noise_vocabulary or setting.noise_fraction):
        return "noise_vocabulary and noise_fraction belong to Noisy Recall; leave them at 0"
    if setting.task != SELECTIVE_COPY and setting.tokens_to_copy:
        return "tokens_to_copy belongs to Selective Copy; leave it at 0"
    if setting.task != FUZZY_RECALL and (setting.key_motif, setting.value_motif) != (1, 1):
        return "key_motif and value_motif belong to Fuzzy Recall; leave them at 1"
    if "Recall" not in setting.task and not setting.multi_query:
        return "multi_query=False belongs to the three recall tasks"
    return None


def _bad_task_numbers(setting: Setting) -> str | None:
    tokens = tokens_of(setting)
    if setting.task == COMPRESS:
        return (
            None
            if setting.vocabulary >= 2 and setting.length >= 2
            else "vocabulary and length must be at least 2"
        )
    if setting.task == SELECTIVE_COPY:
        return _bad_copy(setting, tokens)
    if tokens.keys < 1 or tokens.values_end - tokens.keys < 1:
        return (
            f"vocabulary {setting.vocabulary} with {setting.noise_vocabulary} noise tokens leaves no room "
            "for at least one key and one value; raise vocabulary"
        )
    if setting.task == FUZZY_RECALL:
        return _bad_motifs(setting, tokens)
    if setting.length % 2 or setting.length < (2 if setting.task == MEMORIZE else 4):
        return f"length is {setting.length}, expected an even number of at least 4 (keys and values in pairs)"
    if setting.task == NOISY_RECALL:
        return _bad_noise(setting)
    return None


def _bad_noise(setting: Setting) -> str | None:
    if not 0 <= setting.noise_fraction < 1:
        return f"noise_fraction is {setting.noise_fraction}, expected at least 0 and below 1"
    if setting.noise_vocabulary < 1:
        return f"noise_vocabulary is {setting.noise_vocabulary}, expected at least 1"
    return None


def _bad_copy(setting: Setting, tokens: Tokens) -> str | None:
    if tokens.content < 1:
        return (
            f"vocabulary is {setting.vocabulary}, expected at least 3 (one token, the blank, the copy token)"
        )
    if setting.tokens_to_copy < 1:
        return f"tokens_to_copy is {setting.tokens_to_copy}, expected at least 1"
    shortest = 2 * setting.tokens_to_copy + 2
    if setting.length < shortest:
        return (
            f"length is {setting.length}; copying {setting.tokens_to_copy} tokens takes at least {shortest}"
        )
    return None


def _bad_motifs(setting: Setting, tokens: Tokens) -> str | None:
    sizes = {"key_motif": (setting.key_motif, tokens.keys)}
    sizes["value_motif"] = (setting.value_motif, tokens.values_end - tokens.keys)
    for field, (size, alphabet) in sizes.items():
        if not 1 <= size <= alphabet:
            return f"{field} is {size}, expected 1 to {alphabet}: no token repeats inside a motif"
        if perm(alphabet, size) >= 2**40:
            return f"{field} {size} over {alphabet} tokens gives more than 2**40 motifs; lower one of them"
    shortest = 2 * (setting.key_motif + setting.value_motif) + 1
    if setting.length < shortest:
        return f"length is {setting.length}; motifs of this size need at least {shortest}"
    return None


def nearest(name: str, choices: tuple[str, ...] | list[str]) -> str:
    """' Did you mean X? Choices: ...' for an error message."""
    close = difflib.get_close_matches(name, choices, n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    return f"{hint} Choices: {', '.join(choices)}."


_SIZES = (6400, 3200, 1600, 800)


def _family(baseline: Setting, **changes: tuple[float, ...]) -> tuple[Setting, ...]:
    """The baseline, then each change of one number, in mad-lab's order."""
    changed = [replace(baseline, **{field: value}) for field, values in changes.items() for value in values]  # type: ignore[arg-type]
    return (baseline, *changed)


SETTINGS: tuple[Setting, ...] = (
    *_family(
        Setting(COMPRESS, vocabulary=16, length=32, train_examples=12800),
        vocabulary=(32, 64, 128),
        length=(64, 128, 256),
        train_examples=_SIZES,
    ),
    *_family(
        Setting(CONTEXT_RECALL, vocabulary=16, length=128, train_examples=12800),
        vocabulary=(32, 64, 128),
        length=(256, 512, 1024),
        train_examples=_SIZES,
    ),
    *_family(
        Setting(FUZZY_RECALL, vocabulary=16, length=128, train_examples=12800, key_motif=3, value_motif=3),
        vocabulary=(32, 64, 128),
        length=(256, 512, 1024),
        train_examples=_SIZES,
    ),
    *_family(
        Setting(MEMORIZE, vocabulary=256, length=32, train_examples=256),
        vocabulary=(512, 1024, 2048, 4096, 8192),
    ),
    *_family(
        Setting(
            NOISY_RECALL,
            vocabulary=32,
            length=128,
            train_examples=12800,
            noise_vocabulary=16,
            noise_fraction=0.2,
        ),
        vocabulary=(48, 80, 144),
        length=(256, 512, 1024),
        train_examples=_SIZES,
        noise_fraction=(0.4, 0.6, 0.8),
    ),
    *_family(
        Setting(SELECTIVE_COPY, vocabulary=16, length=256, train_examples=12800, tokens_to_copy=16),
        vocabulary=(32, 64, 128),
        length=(512, 1024),
        train_examples=_SIZES,
        tokens_to_copy=(32, 64, 96),
    ),
)
"""mad-lab's 66 settings, task by task, each task's baseline first."""

BASELINES: tuple[Setting, ...] = tuple(next(s for s in SETTINGS if s.task == task) for task in TASK_NAMES)
"""The baseline setting of each task, in the order of TASK_NAMES."""


def find_setting(name: str) -> Setting:
    """The setting of SETTINGS with this name. Raises SettingError with the nearest name."""
    for setting in SETTINGS:
        if setting.name == name:
            return setting
    close = difflib.get_close_matches(name, [s.name for s in SETTINGS], n=3, cutoff=0.3)
    hint = f" Nearest: {', '.join(close)}." if close else ""
    raise SettingError(f"no setting is named {name!r}.{hint} `archer mad` lists all {len(SETTINGS)}.")
