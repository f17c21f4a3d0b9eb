"""Presets: which settings, which grid, how long. The same words for every rule, so that runs compare."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import Literal

from archer.mad.settings import (
    BASELINES,
    COMPRESS,
    CONTEXT_RECALL,
    FUZZY_RECALL,
    MEMORIZE,
    NOISY_RECALL,
    SELECTIVE_COPY,
    SETTINGS,
    Setting,
    SettingError,
)


@dataclass(frozen=True)
class Preset:
    """A whole experiment for one rule, but for the rule.

    mixers: token mixers in the model, each followed by a SwiGLU. seeds: how many (0, 1, ...).
    epochs: passes over the training set at most; a run stops early at 0.999 test accuracy.
    ranks: whether the results may rank rules; False where the preset is only meant to show that things run.
    evaluate_every: epochs between evaluations.
    """

    name: str
    description: str
    settings: tuple[Setting, ...]
    width: int
    mixers: int
    epochs: int
    learning_rates: tuple[float, ...]
    weight_decays: tuple[float, ...]
    seeds: int
    batch_size: int = 128
    heads: int = 4
    chunk_size: int = 32
    precision: Literal["bf16", "fp32"] = "bf16"
    ranks: bool = True
    evaluate_every: int = 1

    @property
    def runs(self) -> int:
        """Runs for one rule: settings x learning rates x weight decays x seeds."""
        return len(self.settings) * len(self.learning_rates) * len(self.weight_decays) * self.seeds


def _tiny(task: str, length: int, **numbers: int | float) -> Setting:
    counts = {"train_examples": 512, "test_examples": 256, "validation_examples": 256}
    return Setting(task, **{"vocabulary": 16, "length": length, **counts, **numbers})  # type: ignore[arg-type]


_SMOKE = (
    _tiny(COMPRESS, 16),
    _tiny(CONTEXT_RECALL, 32),
    _tiny(FUZZY_RECALL, 32, key_motif=2, value_motif=2),
    _tiny(MEMORIZE, 32),
    _tiny(NOISY_RECALL, 32, noise_vocabulary=4, noise_fraction=0.2),
    _tiny(SELECTIVE_COPY, 32, tokens_to_copy=4),
)
"""Equal shapes but for Compress, so that the five others train as one fleet."""

_QUICK = (
    Setting(COMPRESS, vocabulary=16, length=64, train_examples=12_800),
    Setting(CONTEXT_RECALL, vocabulary=16, length=128, train_examples=800),
    Setting(FUZZY_RECALL, vocabulary=16, length=128, train_examples=12_800, key_motif=3, value_motif=3),
    Setting(MEMORIZE, vocabulary=2048, length=32, train_examples=256),
    Setting(
        NOISY_RECALL, vocabulary=32, length=128, train_examples=800, noise_vocabulary=16, noise_fraction=0.2
    ),
    Setting(SELECTIVE_COPY, vocabulary=16, length=256, train_examples=800, tokens_to_copy=16),
)
"""Of mad-lab's settings some in which rules were seen to differ (docs/design/mad.md has the evidence); at its
baseline settings four tasks are solved by nearly every rule within a few epochs."""

_RATES = (1e-4, 5e-4, 1e-3)
_DECAYS = (0.0, 0.1)

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            "smoke",
            "Six tiny settings on a processor: shows that everything runs, ranks nothing.",
            _SMOKE,
            width=32,
            mixers=1,
            epochs=8,
            learning_rates=(3e-3,),
            weight_decays=(0.0,),
            seeds=2,
            batch_size=32,
            heads=2,
            chunk_size=8,
            precision="fp32",
            ranks=False,
            evaluate_every=2,
        ),
        Preset(
            "quick",
            "One cheap setting of each task, in which rules differ, and one grid point; three seeds.",
            _QUICK,
            width=128,
            mixers=2,
            epochs=60,
            learning_rates=(1e-3,),
            weight_decays=(0.1,),
            seeds=3,
            evaluate_every=2,
        ),
        Preset(
            "baseline",
            "mad-lab's protocol on the baseline setting of each task, with three seeds.",
            BASELINES,
            width=128,
            mixers=2,
            epochs=200,
            learning_rates=_RATES,
            weight_decays=_DECAYS,
            seeds=3,
        ),
        Preset(
            "full",
            "mad-lab's whole protocol: 66 settings, 3 learning rates, 2 weight decays, 396 runs a seed.",
            SETTINGS,
            width=128,
            mixers=2,
            epochs=200,
            learning_rates=_RATES,
            weight_decays=_DECAYS,
            seeds=1,
        ),
    )
}


def find_preset(name: str) -> Preset:
    """The preset with this name. Raises SettingError with the choices and the nearest name."""
    if name in PRESETS:
        return PRESETS[name]
    close = difflib.get_close_matches(name, PRESETS, n=1, cutoff=0.4)
    hint = f" Did you mean {close[0]!r}?" if close else ""
    raise SettingError(f"no preset is named {name!r}.{hint} Choices: {', '.join(PRESETS)}.")
