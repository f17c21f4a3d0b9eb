"""All checks of one candidate in one call, in this process: for code that is trusted or already contained."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

from archer.errors import UserError, unknown
from archer.rules import BASE, Rule, get_rule, load_rule, rule_names
from archer.verify.language import Refused, check_language, check_name
from archer.verify.result import CheckResult, Verification

LENGTHS = (32, 64, 128, 256, 512, 1_024)


def verify_rule(
    source: str,
    name: str,
    *,
    parent: str | None = None,
    known: Mapping[str, str] | None = None,
    allow_many: bool = False,
    trust: bool = False,
    lengths: tuple[int, ...] = LENGTHS,
    chunk_size: int = 32,
) -> Verification:
    """Checks the text of a rule file. The text is executed here unless the language wall refuses it.

    parent: the rule to compare with, if not the one that the file names. known: further rules by name, as
    texts, that may be parents and that the candidate must differ from. allow_many: more than one changed slot
    is fine. trust: lift the language wall. lengths, chunk_size: where the reach
    is measured; all else is checked in chunks of 32.
    """
    started = time.perf_counter()
    language = _language(source, name, trust)
    if not language.passed:
        return Verification(name, False, (language,), trusted=trust)
    finder = Finder(dict(known or {}))
    try:
        rule = load_rule(source, name, finder)
        compared = finder(parent) if parent else finder(rule.parent) if rule.parent else None
    except Exception as error:  # noqa: BLE001 - loading runs the candidate's own lines
        broken = CheckResult("contract", False, _plainly(error)[:2000], time.perf_counter() - started)
        return Verification(name, False, (language, broken), trusted=trust)
    return _check_rule(rule, compared, finder, language, allow_many, trust, lengths, chunk_size)


def refusal(source: str, name: str, trust: bool) -> Verification | None:
    """What the language wall says of a text that it refuses; None where it lets the text through. Nothing is
    executed, and PyTorch is not imported."""
    language = _language(source, name, trust)
    return None if language.passed else Verification(name, False, (language,), trusted=trust)


class Finder:
    """Finds rules by name: built-in ones, and further ones given as texts."""

    def __init__(self, texts: Mapping[str, str]):
        self.texts = texts
        self._loaded: dict[str, Rule] = {}

    def __call__(self, name: str) -> Rule:
        """The rule of that name. Raises UserError with the nearest names."""
        if name not in self.texts:
            if "+" not in name and name not in rule_names():
                problem = unknown("rule", name, (*rule_names(), *self.texts))
                raise UserError(
                    f"{problem}. A rule of your own can be a parent once a project has accepted it (archer "
                    "try), and in that project alone (--project)"
                )
            return get_rule(name)
        if name not in self._loaded:
            self._loaded[name] = load_rule(self.texts[name], name, self)
        return self._loaded[name]

    def all(self) -> dict[str, Rule]:
        """Every rule that it knows; what does not load is no rule and is left out."""
        found = {name: get_rule(name) for name in rule_names()}
        for name in self.texts:
            try:
                found[name] = self(name)
            except UserError:
                continue
        return found


def _check_rule(
    rule: Rule, parent: Rule | None, finder: Finder, language: CheckResult, allow_many: bool, trust: bool,
    lengths: tuple[int, ...], chunk_size: int,
) -> Verification:  # fmt: skip
    from archer.verify.candidate import RuleCandidate
    from archer.verify.checks.change import changed_slots, one_change
    from archer.verify.checks.novelty import new

    candidate = RuleCandidate(rule)
    other = RuleCandidate(parent) if parent is not None else None
    figures: dict[str, float] = {}
    results = [language, one_change.run(rule, parent, allow_many), *_behaviour(candidate, other, figures)]
    found: list[str] = []
    reached, slots = None, changed_slots(rule, parent) if parent is not None else ()
    if all(result.passed for result in results if result.name != "one change"):
        results.append(new.run(rule, finder.all(), found))
        if parent is not None:
            result, reached = _reach(rule, parent, lengths, chunk_size)
            results.append(result)
    return Verification(
        rule.name, all(result.passed for result in results), tuple(results), rule.hash, rule.parent or "",
        slots,
        found[0] if found else None, reached, figures, (), trust,
    )  # fmt: skip


def _behaviour(candidate: Any, parent: Any, figures: dict[str, float]) -> list[CheckResult]:
    """The checks that a rule and a mixer share. The rest is skipped where the contract is broken."""
    from archer.verify.checks import (
        carrying,
        causality,
        contract,
        cost,
        gradients,
        independence,
        precision,
        repeatable,
        stability,
        training,
    )

    first = contract.contract.run(candidate)
    if not first.passed:
        return [first]
    shared = (
        causality.causality, causality.length_independence, independence.batch_independence,
        independence.head_independence, carrying.carried_state, carrying.decoding, repeatable.repeatable,
        gradients.finite_gradients, precision.precision, gradients.live_parameters, stability.stability,
    )  # fmt: skip
    results = [first, *(check.run(candidate) for check in shared)]
    if all(result.passed for result in results):  # else they say the same, of a smaller case
        results.append(training.as_it_trains.run(candidate))
    results.append(cost.cost.run(candidate, figures))
    results.append(cost.cost_against_parent.run(candidate, parent, figures))
    return results


def _reach(
    rule: Rule, parent: Rule, lengths: tuple[int, ...], chunk_size: int
) -> tuple[CheckResult, tuple[int, ...] | None]:
    from archer.verify.checks.finding import Finding, check
    from archer.verify.reach import reach

    reached: list[int] = []

    @check("reach", "It differs from its parent at some length.")
    def find() -> Finding:
        reached.extend(reach(rule, parent, lengths, chunk_size))
        same = [length for length in lengths if length not in reached]
        if not reached:
            return Finding(
                False, f"it computes what `{parent.name}` computes at every length up to {lengths[-1]}"
            )
        beside = f"; the same as `{parent.name}` at {', '.join(map(str, same))}" if same else ""
        return Finding(True, f"differs at lengths {', '.join(map(str, reached))}{beside}")

    result = find.run()
    return result, tuple(reached)


def verify_mixer(
    source: str,
    class_name: str,
    arguments: Mapping[str, Any] | None = None,
    *,
    width: int = 32,
    trust: bool = True,
) -> Verification:
    """Checks an nn.Module of a source text that maps x [B, T, D] to [B, T, D], D = width.

    arguments: for its constructor. The text is executed here; classes cannot pass the language wall, so a
    mixer always runs on trust in it, and behind the process wall in `verify_contained`.
    Raises UserError where the class cannot be found or built.
    """
    from archer.verify.candidate import mixer_candidate

    candidate = mixer_candidate(source, class_name, arguments or {}, width)
    figures: dict[str, float] = {}
    results = _behaviour(candidate, None, figures)
    passed = all(result.passed for result in results)
    return Verification(
        class_name, passed, tuple(results), candidate.source_hash, cost=figures, trusted=trust
    )


def _language(source: str, name: str, trust: bool) -> CheckResult:
    started = time.perf_counter()
    try:
        check_name(name)
        if not trust:
            check_language(source, name)
    except Refused as refused:
        where = f"line {refused.line}" if refused.line else ""
        return CheckResult("language", False, str(refused)[:2000], time.perf_counter() - started, where)
    words = "lifted by --trust: only the process wall is left" if trust else "nothing but tensor mathematics"
    return CheckResult("language", True, words, time.perf_counter() - started)


def _plainly(error: Exception) -> str:
    return (
        str(error)
        if isinstance(error, UserError)
        else f"it cannot be loaded: {type(error).__name__}: {error}"
    )


__all__ = ["BASE", "LENGTHS", "Finder", "verify_mixer", "verify_rule"]
