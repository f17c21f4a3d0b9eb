"""Which past trials cannot differ from the plain delta rule, read from what their rules change.

The state is zero before the first chunk and is read before it is written. So a rule that changes only what is
kept and what is written computes the delta rule itself wherever the sequence fits in one chunk.
"""

from __future__ import annotations

from archer.judge.history import SameFunction
from archer.mad.settings import SETTINGS

LATER_CHUNKS_ONLY = frozenset(("retain", "write"))
"""Slots whose change the first chunk's outputs cannot show."""

HISTORY_CHUNK = 32
"""The chunk size with which the built-in tables were made."""


def one_function_in_one_chunk(name: str) -> bool:
    """Whether a built-in rule is delta_net on every sequence of at most one chunk, by its slots.

    True is certain; False only says that the slots do not show it. Raises UserError for an unknown rule.
    """
    from archer.rules import BASE, get_rule

    rule, base = get_rule(name), get_rule(BASE)
    changed = {slot for slot in rule.slots if rule.slots[slot] is not base.slots.get(slot)}
    return changed <= LATER_CHUNKS_ONLY and rule.layer == base.layer


def equal_settings(name: str, task: str, chunk_size: int = HISTORY_CHUNK) -> frozenset[str]:
    """Settings of the full protocol in which a built-in rule is certainly delta_net."""
    if not one_function_in_one_chunk(name):
        return frozenset()
    return frozenset(one.name for one in SETTINGS if one.task == task and one.length <= chunk_size)


def history_same_function(chunk_size: int = HISTORY_CHUNK) -> SameFunction:
    """(history model, task) -> True where it is delta_net in all settings; None for unknown models."""
    from archer.rules import resolve_history_name

    def same(model: str, task: str) -> bool | None:
        name = resolve_history_name(model)
        if name is None:
            return None
        every = frozenset(one.name for one in SETTINGS if one.task == task)
        return equal_settings(name, task, chunk_size) == every

    return same
