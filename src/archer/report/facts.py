"""What a note is made of: records of the ledger, tables of history, and what the rules say of themselves.

Nothing here is words of a note; `note.build` finds those. Everything is frozen, and may be made by hand.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, TypeVar

from archer.ledger.history import HistoryTable
from archer.ledger.records import (
    Comparison,
    ConfirmationRecord,
    CycleRecord,
    ProposalRecord,
    RunRecord,
    VerdictRecord,
    VerificationRecord,
)
from archer.report.costs import RuleCost, Surplus, read_decoding, rule_costs, surpluses

if TYPE_CHECKING:
    from archer.ledger.store import Ledger
    from archer.rules import Rule

T = TypeVar("T")

DECLARATIONS = ("Parameter", "Feature", "Carried", "Layer")


@dataclass(frozen=True)
class RuleFacts:
    """What a rule says of itself. slots: those of its own file; learned, features, carries: names."""

    name: str
    parent: str | None
    title: str = ""
    equation: str = ""
    citation: str = ""
    source: str = ""
    rule_hash: str = ""
    slots: tuple[str, ...] = ()
    learned: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    carries: tuple[str, ...] = ()


@dataclass(frozen=True)
class Facts:
    """One cycle (or one bench: then there is no proposal), and what was known before it.

    base, reference: the names of the plain delta rule and of the rule to beat. rules: every rule that the
    note may speak of, by name; all registered ones, if what was not tried is to be complete. comparisons:
    those beside the verdict's two. aliases: a history table's model to a rule's name. past: earlier
    verdicts. chance: the score of guessing by task, where known. files: what was written, beside the report.
    costs: of each trained rule. surpluses: rules with more parameters than those they are compared with.
    confirmations: of a bench's winners; fresh_runs: with seeds that had no part in a win, of any kind.
    """

    cycle: CycleRecord
    proposal: ProposalRecord | None = None
    verification: VerificationRecord | None = None
    verdict: VerdictRecord | None = None
    runs: tuple[RunRecord, ...] = ()
    comparisons: tuple[Comparison, ...] = ()
    history: tuple[HistoryTable, ...] = ()
    rules: Mapping[str, RuleFacts] = field(default_factory=dict)
    aliases: Mapping[str, str] = field(default_factory=dict)
    past: tuple[VerdictRecord, ...] = ()
    noise_floor: Mapping[str, float | None] = field(default_factory=dict)
    chance: Mapping[str, float] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    base: str = "delta_net"
    reference: str = "gated_delta_net"
    ranks: bool = False
    costs: Mapping[str, RuleCost] = field(default_factory=dict)
    surpluses: tuple[Surplus, ...] = ()
    confirmations: tuple[ConfirmationRecord, ...] = ()
    fresh_runs: tuple[RunRecord, ...] = ()

    @property
    def candidate(self) -> str | None:
        """The rule that was proposed."""
        return self.proposal.rule if self.proposal else None

    @property
    def parent(self) -> str | None:
        """The rule that the candidate changes."""
        return self.proposal.parent if self.proposal else None

    @property
    def may_rank(self) -> bool:
        """Whether the preset is large enough for its scores to order rules."""
        return self.verdict.ranks if self.verdict else self.ranks

    @property
    def floors(self) -> Mapping[str, float | None]:
        """The noise floor by task."""
        return self.verdict.noise_floor if self.verdict else self.noise_floor

    @property
    def every_run(self) -> tuple[RunRecord, ...]:
        """The runs that were judged, and those that confirmed or refused a win."""
        return (*self.runs, *self.fresh_runs)

    def all_confirmations(self) -> tuple[ConfirmationRecord, ...]:
        """The verdict's, and those of a bench."""
        own = self.verdict.confirmation if self.verdict else None
        return (*([own] if own else []), *self.confirmations)

    def confirmation_of(self, comparison: Comparison) -> ConfirmationRecord | None:
        """What fresh seeds said of these two rules."""
        pair = comparison.candidate, comparison.baseline
        found = {(one.comparison.candidate, one.comparison.baseline): one for one in self.all_confirmations()}
        return found.get(pair)

    def is_contender(self, comparison: Comparison) -> bool:
        """Whether a win here would be a claim of this note: over the reference, by what was proposed."""
        if self.verdict is None:
            return self.proposal is None
        return (comparison.candidate, comparison.baseline) == (self.verdict.rule, self.verdict.reference)

    def in_order(self, rules: Iterable[str]) -> list[str]:
        """Each rule once: the candidate, its parent, the reference, then the others; colours follow this."""
        first = (self.candidate, self.parent, self.reference)
        return sorted(
            dict.fromkeys(rules), key=lambda rule: first.index(rule) if rule in first else len(first)
        )

    def all_comparisons(self) -> tuple[Comparison, ...]:
        """Against the reference first, then against the parent, then the rest; none twice."""
        own = (self.verdict.against_reference, self.verdict.against_parent) if self.verdict else ()
        kept: dict[tuple[str, str], Comparison] = {}
        for comparison in (*own, *self.comparisons):
            if comparison.candidate != comparison.baseline:
                kept.setdefault((comparison.candidate, comparison.baseline), comparison)
        return tuple(kept.values())

    @property
    def compared_with(self) -> str:
        """The rule to beat; where nothing was compared with it, the one that everything was compared with."""
        baselines = {comparison.baseline for comparison in self.all_comparisons()}
        alone = len(baselines) == 1 and self.reference not in baselines
        return baselines.pop() if alone else self.reference

    def measured(self) -> dict[str, dict[str, float | None]]:
        """Rule to task to score, as the comparisons have them; the reference first, the candidate last."""
        found: dict[str, dict[str, float | None]] = {}
        for comparison in self.all_comparisons():
            for task in (*comparison.tasks, comparison.mean):
                _put(found, comparison.baseline, task.task, task.baseline)
                _put(found, comparison.candidate, task.task, task.candidate)
        order = sorted(found, key=lambda rule: (rule == self.candidate, rule != self.reference))
        return {rule: found[rule] for rule in order}


def _put(found: dict[str, dict[str, float | None]], rule: str, task: str, score: float | None) -> None:
    scores = found.setdefault(rule, {})
    if scores.get(task) is None:
        scores[task] = score


def rule_facts(rule: Rule) -> RuleFacts:
    """What a loaded rule says of itself."""
    return RuleFacts(
        name=rule.name,
        parent=rule.parent,
        title=rule.title,
        equation=rule.equation,
        citation=rule.citation,
        source=rule.source,
        rule_hash=rule.hash,
        slots=rule.own,
        learned=tuple(rule.parameters),
        features=tuple(rule.features),
        carries=tuple(rule.carries),
    )


def lineage(name: str, rules: Mapping[str, RuleFacts]) -> tuple[RuleFacts, ...]:
    """From the first ancestor to the rule itself, as far as the rules are known."""
    chain: list[RuleFacts] = []
    current: str | None = name
    while current is not None and current in rules and rules[current] not in chain:
        chain.append(rules[current])
        current = rules[current].parent
    return tuple(reversed(chain))


@dataclass(frozen=True)
class Place:
    """Where something stands: the rule whose file it is, its first line there (from 1), and its lines."""

    rule: str
    first_line: int
    lines: tuple[str, ...]


def slot_in_effect(name: str, slot: str, rules: Mapping[str, RuleFacts]) -> Place | None:
    """The code that runs in a slot of a rule: its own, or the nearest ancestor's."""
    for rule in reversed(lineage(name, rules)):
        for node in _statements(rule.source):
            if isinstance(node, ast.FunctionDef) and node.name == slot:
                return _place(rule, node.lineno, node.end_lineno)
    return None


def declarations(rule: RuleFacts) -> tuple[str, ...]:
    """The lines in which a rule's file declares what it learns, reads and carries."""
    lines = rule.source.splitlines()
    return tuple(
        line
        for node in _statements(rule.source)
        if isinstance(node, ast.Assign) and _calls(node.value) in DECLARATIONS
        for line in lines[node.lineno - 1 : node.end_lineno]
    )


def _statements(source: str) -> Sequence[ast.stmt]:
    try:
        return ast.parse(source).body
    except SyntaxError:  # a candidate that was rejected for this very reason has no slots to show
        return ()


def _calls(node: ast.expr) -> str:
    return node.func.id if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) else ""


def _place(rule: RuleFacts, first: int, last: int | None) -> Place:
    return Place(rule.name, first, tuple(rule.source.splitlines()[first - 1 : last]))


def gather(
    ledger: Ledger,
    cycle: CycleRecord,
    history: Iterable[HistoryTable],
    rules: Iterable[Rule],
    comparisons: Iterable[Comparison] = (),
    files: Iterable[str] = (),
    noise_floor: Mapping[str, float | None] | None = None,
    ranks: bool = False,
    confirmations: Iterable[ConfirmationRecord] = (),
) -> Facts:
    """The facts of one cycle, read from the ledger.

    rules: the registered ones, and the candidate's if it is loaded (else it is known by its text alone).
    comparisons, noise_floor, ranks, confirmations: for a bench, which has no verdict.
    """
    from archer.rules import resolve_history_name

    tables, loaded = tuple(history), {rule.name: rule for rule in rules}
    known = {name: rule_facts(rule) for name, rule in loaded.items()}
    proposal = next(iter(ledger.proposals(id=cycle.proposal)), None) if cycle.proposal else None
    if proposal is not None and proposal.rule not in known:
        known[proposal.rule] = _from_text(proposal)
    verdicts = ledger.verdicts()
    models = {row.model for table in tables for row in table.rows}
    resolved = {model: resolve_history_name(model) for model in models}
    facts = Facts(
        cycle=cycle,
        proposal=proposal,
        verification=_verification(ledger, proposal, loaded) if proposal else None,
        verdict=_last([verdict for verdict in verdicts if proposal and verdict.proposal == proposal.id]),
        runs=ledger.runs(keys=cycle.run_keys) if cycle.run_keys else (),
        comparisons=tuple(comparisons),
        history=tables,
        rules=known,
        aliases={model: rule for model, rule in resolved.items() if rule},
        past=tuple(verdict for verdict in verdicts if not proposal or verdict.proposal != proposal.id),
        noise_floor=noise_floor or {},
        files=tuple(files),
        ranks=ranks,
        confirmations=tuple(confirmations),
    )
    fresh = [key for one in facts.all_confirmations() for key in one.run_keys]
    facts = replace(facts, fresh_runs=ledger.runs(keys=fresh) if fresh else ())
    return _with_costs(facts, ledger, loaded)


def _verification(
    ledger: Ledger, proposal: ProposalRecord, rules: Mapping[str, Rule]
) -> VerificationRecord | None:
    """The last verification of this very text: another may have had its name.

    By its hash; a text that could not be loaded has none, and of it the last that is not known to be of
    another text is taken.
    """
    from archer.rules.rule import text_hash

    found, kept = ledger.verifications(rule=proposal.rule), ledger.sources()
    parent = rules.get(proposal.parent)
    own = text_hash(proposal.source, (parent.source, *parent.ancestry)) if parent else ""
    exact = [one for one in found if own and one.rule_hash == own]
    return _last(
        exact or [one for one in found if kept.get(one.rule_hash, proposal.source) == proposal.source]
    )


def _with_costs(facts: Facts, ledger: Ledger, rules: Mapping[str, Rule]) -> Facts:
    """The same facts, with what the trained rules cost."""
    runs = (*facts.runs, *stand_ins(facts))
    return replace(
        facts,
        costs=rule_costs(facts.runs, rules, read_decoding(ledger.path.parent)),
        surpluses=surpluses(facts.all_comparisons(), runs, lambda name: ledger.runs(preset=name), rules),
    )


def stand_ins(facts: Facts) -> tuple[RunRecord, ...]:
    """The parent's runs in the candidate's name, in the settings in which it was found to be its parent."""
    found, proposal = facts.verification, facts.proposal
    if found is None or proposal is None:
        return ()
    same = set(found.measured or ()) - set(found.reach or ())
    own = {run.setting for run in facts.runs if run.rule == proposal.rule}
    return tuple(
        replace(run, rule=proposal.rule, rule_hash=found.rule_hash, key=f"{run.key}=")
        for run in facts.runs
        if run.rule == proposal.parent and run.setting in same - own
    )


def _last(items: Sequence[T]) -> T | None:
    return items[-1] if items else None


def _from_text(proposal: ProposalRecord) -> RuleFacts:
    """A rule that is known by its text alone."""
    names = tuple(
        node.name
        for node in _statements(proposal.source)
        if isinstance(node, ast.FunctionDef) and not node.name.startswith("_")
    )
    return RuleFacts(proposal.rule, proposal.parent, source=proposal.source, slots=proposal.slots or names)
