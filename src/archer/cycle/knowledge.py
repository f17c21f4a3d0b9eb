"""What a researcher may know: from the ledger and the history of a laboratory to a `Context`.

A proposal may be made while candidates before it train. So that it is the same whenever it is made, and
after an interruption too, what their training finds can be left out (`pending`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from archer.cycle.laboratory import repeats
from archer.cycle.project import now
from archer.ledger.records import ProposalRecord, RunRecord, VerdictRecord, VerificationRecord
from archer.rules import get_rule, rule_names

if TYPE_CHECKING:
    from archer.cycle.laboratory import Laboratory
    from archer.ledger import Ledger
    from archer.research.researcher import Context, Measurement


def known(lab: Laboratory, pending: Iterable[str] = (), presets: Iterable[str] = ()) -> Context:
    """Everything that decides a proposal.

    pending: proposals whose runs and verdicts are left out, as if they were still training. presets: others
    than the laboratory's whose results count too, each as a source of its own.
    """
    from archer.judge import track_record
    from archer.research.context import history_measurements
    from archer.research.researcher import Context, Rejection
    from archer.research.researcher import Setting as KnownSetting

    ledger, preset = lab.ledger, lab.preset
    origins = {p.id: p.promoted_from or p.id for p in ledger.proposals()}
    left_out = frozenset(origins.get(proposal, proposal) for proposal in pending)
    proposals = tuple(p for p in ledger.proposals() if not p.promoted_from)
    verifications = ledger.verifications()
    rejected, texts = {v.rule: v for v in verifications if not v.passed}, ledger.sources()
    passed = {(v.rule, texts.get(v.rule_hash)) for v in verifications if v.passed}
    refused = [p for p in proposals if p.rule in rejected and (p.rule, p.source) not in passed]
    verdicts = _of_origins(ledger.verdicts(), origins, left_out)
    sources = {name: get_rule(name).source for name in rule_names()} | lab.accepted()
    names = tuple(setting.name for setting in preset.settings)
    return Context(
        sources=sources,
        history=history_measurements(lab.history, sources),
        measured=_measured(lab, (preset.name, *presets), left_out, origins),
        proposals=proposals,
        verdicts=verdicts,
        rejections=tuple(Rejection(p.id, why(rejected[p.rule])) for p in refused),
        settings=tuple(KnownSetting(s.task, s.name, s.input_length) for s in preset.settings),
        reach={v.rule: v.reach for v in verifications if v.reach is not None and v.measured in (None, names)},
        track_record=track_record(verdicts, proposals),
        ranked_record=track_record([verdict for verdict in verdicts if verdict.ranks], proposals),
        preset=preset.name,
        chunk_size=preset.chunk_size,
        seed=lab.seed,
        now=now(),
    )


def why(verification: VerificationRecord) -> str:
    """What a rejected rule was rejected for."""
    return "; ".join(f"{c.name}: {c.message}" for c in verification.checks if not c.passed)


def exact_settings(verifications: Iterable[VerificationRecord]) -> frozenset[str]:
    """Settings in which a rule computes what its parent computes."""
    return frozenset(name for v in verifications for name in set(v.measured or ()) - set(v.reach or ()))


def stand_ins(
    runs: Iterable[RunRecord], rule: str, rule_hash: str, parent: str, exact: frozenset[str]
) -> tuple[RunRecord, ...]:
    """The parent's runs in the settings in which the rule computes what its parent computes, as its own."""
    return tuple(
        replace(run, rule=rule, rule_hash=rule_hash, key=f"{run.key}=")
        for run in runs
        if run.rule == parent and run.setting in exact
    )


def _of_origins(
    verdicts: Sequence[VerdictRecord], origins: Mapping[str, str], pending: frozenset[str]
) -> tuple[VerdictRecord, ...]:
    """Verdicts under the proposal that was first made for their rule, a promotion's too."""
    own = (replace(v, proposal=origins.get(v.proposal, v.proposal)) for v in verdicts)
    return tuple(verdict for verdict in own if verdict.proposal not in pending)


def _measured(
    lab: Laboratory, presets: Sequence[str], pending: frozenset[str], origins: Mapping[str, str]
) -> tuple[Measurement, ...]:
    """Each preset's score table; presets are never mixed."""
    from archer.ledger.summary import score_table
    from archer.research.context import measurements

    found: list[Measurement] = []
    for name in dict.fromkeys(presets):
        runs = _whole_seeds(_settled(lab.ledger, lab.ledger.runs(preset=name), pending, origins))
        found += measurements(score_table([*runs, *_all_stand_ins(lab.ledger, runs)], name), name)
    return tuple(found)


def _settled(
    ledger: Ledger, runs: tuple[RunRecord, ...], pending: frozenset[str], origins: Mapping[str, str]
) -> tuple[RunRecord, ...]:
    """The runs without those that are trained for the pending proposals, whether their cycles are over or
    not. A new rule's may be older than its cycle: it was trained together with another, a campaign ago."""
    cycles = ledger.cycles()
    own = {cycle.id for cycle in cycles if origins.get(cycle.proposal or "") in pending}
    others = {key for cycle in cycles if cycle.id not in own for key in cycle.run_keys}
    new = {p.rule for p in ledger.proposals() if p.id in pending and not repeats(p)}
    began = min((cycle.started_at for cycle in cycles if cycle.id in own), default=None)
    return tuple(
        run
        for run in runs
        if run.key in others or (run.rule not in new and (began is None or run.finished_at < began))
    )


def _whole_seeds(runs: tuple[RunRecord, ...]) -> tuple[RunRecord, ...]:
    """Without the seeds that a rule was given in some of its settings only, where a task was still open."""
    settings: dict[tuple[str, str], dict[int, set[str]]] = {}
    for run in runs:
        by_seed = settings.setdefault((run.rule, run.rule_hash), {})
        by_seed.setdefault(run.seed, set()).add(run.setting)
    whole = {
        rule: {seed for seed, found in by_seed.items() if found == set().union(*by_seed.values())}
        for rule, by_seed in settings.items()
    }
    return tuple(r for r in runs if r.seed in (whole[r.rule, r.rule_hash] or {r.seed}))


def _all_stand_ins(ledger: Ledger, runs: tuple[RunRecord, ...]) -> list[RunRecord]:
    """For every rule that was not trained everywhere: its parent's runs, with the seeds that it was trained
    with, so that it has scores on all tasks."""
    parents = {p.rule: p.parent for p in _first_proposals(ledger)}
    passed: dict[tuple[str, str], list[VerificationRecord]] = {}
    for verification in ledger.verifications():
        if verification.passed and verification.rule in parents:
            passed.setdefault((verification.rule, verification.rule_hash), []).append(verification)
    found: list[RunRecord] = []
    for (rule, rule_hash), verifications in passed.items():
        own = [run for run in runs if (run.rule, run.rule_hash) == (rule, rule_hash)]
        exact = exact_settings(verifications) - {run.setting for run in own}
        seeds = {run.seed for run in own}
        parents_runs = (run for run in runs if run.seed in seeds)
        found += stand_ins(parents_runs, rule, rule_hash, parents[rule], exact)
    return found


def _first_proposals(ledger: Ledger) -> tuple[ProposalRecord, ...]:
    first: dict[str, ProposalRecord] = {}
    for proposal in ledger.proposals():
        first.setdefault(proposal.rule, proposal)
    return tuple(first.values())
