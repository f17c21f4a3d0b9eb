"""The models that are trained: MAD's language model and auto-encoder, around one token mixer.

`Model` is the backbone; `RuleMixer` is a rule as its token mixer, `ModuleMixer` any `torch.nn.Module` (the
baselines of `archer.model.baselines`). All learn from one flat dictionary of parameters with the fleet axis F
in front, so that many runs go through one model at once.

Names load what they need when they are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from archer.model.backbone import Model
    from archer.model.mixer import ModuleMixer, RuleMixer

_EXPORTS = {"Model": "backbone", "ModuleMixer": "mixer", "RuleMixer": "mixer"}

__all__ = ["Model", "ModuleMixer", "RuleMixer"]


def __getattr__(name: str) -> Any:
    """Load a public name's module when the name is first asked for."""
    if name not in _EXPORTS:
        raise AttributeError(f"module 'archer.model' has no attribute {name!r}")
    value = getattr(import_module(f"archer.model.{_EXPORTS[name]}"), name)
    globals()[name] = value
    return value
