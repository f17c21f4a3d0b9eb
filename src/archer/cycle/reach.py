"""In which settings two rules of a project are one function, and runs that stand in for such settings."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from archer.judge.noise import NoiseFloor
    from archer.ledger import Ledger
    from archer.ledger.records import RunRecord, VerificationRecord

Names = frozenset[str]
"""Names of settings."""


class Reach:
    """Where the rules of one preset's runs are one function with their ancestors, as verification found.

    Of a rule the newest version counts: an edited rule is another rule under the same name. Taken from the
    ledger; where that has nothing, a built-in rule whose text has not changed since its runs is verified now.
    What is not known counts as different.
    """

    def __init__(self, ledger: Ledger, runs: Sequence[RunRecord]) -> None:
        self.ledger = ledger
        self.hashes = {run.rule: run.rule_hash for run in sorted(runs, key=lambda run: run.finished_at)}
        self.runs = [run for run in runs if run.rule_hash == self.hashes[run.rule]]
        self.settings = {run.setting: run for run in self.runs}
        self._found: dict[str, dict[str, Names]] = {}
        self._unreached: dict[tuple[str, str], Names] = {}

    def same(self, first: str, second: str) -> Names:
        """The settings in which two rules agree: each with a common ancestor, or one with the other."""
        ours, theirs = self.equal_to(first), self.equal_to(second)
        return frozenset(
            setting for name in ours.keys() & theirs.keys() for setting in ours[name] & theirs[name]
        )

    def equal_to(self, rule: str) -> Mapping[str, Names]:
        """Ancestor (the rule itself included) to the settings in which the two are one function."""
        if rule not in self._found:
            equal: dict[str, Names] = {rule: frozenset(self.settings)}
            parent = self.parent(rule)
            if parent and parent != rule:
                link = self.unreached(rule, parent)
                equal |= {name: link & above for name, above in self.equal_to(parent).items()}
            self._found[rule] = equal
        return self._found[rule]

    def parent(self, rule: str) -> str | None:
        """The rule that a rule changes, as the ledger has it, or the library."""
        from archer.rules import get_rule, rule_names

        if rule in rule_names():
            return get_rule(rule).parent
        kept = self.ledger.source(self.hashes[rule]) if rule in self.hashes else None
        if kept is not None and kept.parent:
            return kept.parent
        proposals = self.ledger.proposals(rule=rule)
        return proposals[-1].parent if proposals else None

    def unreached(self, rule: str, parent: str) -> Names:
        """The settings in which a rule is known to compute what its parent computes."""
        if (rule, parent) not in self._unreached:
            self._unreached[rule, parent] = self._verified(rule, parent)
        return self._unreached[rule, parent]

    def _verified(self, rule: str, parent: str) -> Names:
        found = self.ledger.verifications(rule=rule, rule_hash=self.hashes.get(rule))
        kept = [one for one in found if one.reach is not None]
        if not kept:
            return self._verified_now(rule, parent)
        reached = {name for one in kept for name in one.reach or ()}
        known = {name for one in kept for name in _looked_at(one)}
        return frozenset(name for name in self.settings if name in known - reached)

    def stand_ins(self) -> tuple[RunRecord, ...]:
        """The parent's runs in a rule's name, where the rule is its parent and so was not trained."""
        made: list[RunRecord] = []
        for rule in sorted(self.hashes, key=self._generation):
            parent = self.parent(rule)
            if parent is None:
                continue
            own = {run.setting for run in self.runs if run.rule == rule}
            absent = self.unreached(rule, parent) - own
            made += [
                replace(run, rule=rule, rule_hash=self.hashes[rule], key=f"{run.key}=")
                for run in (*self.runs, *made)
                if run.rule == parent and run.setting in absent
            ]
        return tuple(made)

    def noise(self) -> dict[str, NoiseFloor]:
        """The noise of a score by task, from repeated seeds."""
        from archer.judge.noise import noise_floor

        return noise_floor(self.runs)

    def _generation(self, rule: str) -> int:
        return len(self.equal_to(rule))

    def _verified_now(self, rule: str, parent: str) -> Names:
        from archer.rules import get_rule, rule_names
        from archer.verify.reach import reach

        names = {rule, parent}
        if not names <= {*rule_names()}:
            return frozenset()
        if any(self.hashes.get(name, get_rule(name).hash) != get_rule(name).hash for name in names):
            return frozenset()
        shapes = {name: shape for name, run in self.settings.items() if (shape := _shape(run))}
        equal: set[str] = set()
        for chunk in {chunk for _, chunk in shapes.values()}:
            lengths = {name: length for name, (length, size) in shapes.items() if size == chunk}
            reached = set(reach(get_rule(rule), get_rule(parent), sorted({*lengths.values()}), chunk))
            equal |= {name for name, length in lengths.items() if length not in reached}
        return frozenset(equal)


def _looked_at(verification: VerificationRecord) -> Iterable[str]:
    """Where a verification measured the reach; where it does not say, the smallest preset that fits."""
    from archer.mad.presets import PRESETS

    if verification.measured is not None:
        return verification.measured
    reached = set(verification.reach or ())
    fitting = [[s.name for s in p.settings] for p in PRESETS.values()]
    return min((names for names in fitting if reached and reached <= {*names}), key=len, default=())


def _shape(run: RunRecord) -> tuple[int, int] | None:
    """(length that the model read, chunk size) as the run says they were; None where it does not."""
    from archer.mad.settings import Setting, SettingError

    setting, recipe = run.effective.get("setting"), run.effective.get("recipe")
    if not isinstance(setting, dict) or not isinstance(recipe, dict) or "chunk_size" not in recipe:
        return None
    try:
        return Setting(**setting).input_length, int(recipe["chunk_size"])
    except (TypeError, SettingError):  # a setting in the words of another version of Archer
        return None
