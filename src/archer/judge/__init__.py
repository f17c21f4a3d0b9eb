"""From runs to verdicts: paired differences, the noise floor, reach, seeds until decided, calibration.

Nothing here trains or prints. docs/design/statistics.md gives the reasons; names load what they need when
they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from archer.judge.comparison import compare
    from archer.judge.errors import JudgeError
    from archer.judge.history import analyse, rejudge_history
    from archer.judge.noise import (
        NoiseFloor,
        estimate_variance,
        history_noise_floor,
        noise_floor,
        shipped_variance,
    )
    from archer.judge.predictions import score_predictions, standings, track_record, widen, widening
    from archer.judge.sequential import (
        Confirmation,
        Pair,
        UntilDecided,
        begin,
        claim_of,
        confirm,
        decide_sequentially,
        decide_together,
        look,
    )
    from archer.judge.verdicts import verdict

_MODULES = {
    "comparison": ("compare",),
    "errors": ("JudgeError",),
    "history": ("analyse", "rejudge_history"),
    "noise": (
        "NoiseFloor",
        "estimate_variance",
        "history_noise_floor",
        "noise_floor",
        "shipped_variance",
    ),
    "predictions": ("score_predictions", "standings", "track_record", "widen", "widening"),
    "sequential": (
        "Confirmation",
        "Pair",
        "UntilDecided",
        "begin",
        "claim_of",
        "confirm",
        "decide_sequentially",
        "decide_together",
        "look",
    ),
    "verdicts": ("verdict",),
}

_EXPORTS = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "Confirmation",
    "JudgeError",
    "NoiseFloor",
    "Pair",
    "UntilDecided",
    "analyse",
    "begin",
    "claim_of",
    "compare",
    "confirm",
    "decide_sequentially",
    "decide_together",
    "estimate_variance",
    "history_noise_floor",
    "look",
    "noise_floor",
    "rejudge_history",
    "score_predictions",
    "shipped_variance",
    "standings",
    "track_record",
    "verdict",
    "widen",
    "widening",
]


def __getattr__(name: str) -> Any:
    """Load a public name's module when the name is first asked for."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'archer.judge' has no attribute {name!r}")
    value = getattr(import_module(f"archer.judge.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value
