"""A note on a campaign: what many cycles tried and learned, the best rules, and what comes next."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from statistics import mean
from typing import TYPE_CHECKING

from archer.ledger.records import (
    TASKS,
    CycleRecord,
    PredictionScore,
    ProposalRecord,
    RunRecord,
    VerdictRecord,
)
from archer.ledger.summary import score_table
from archer.report import charts, numbers
from archer.report.cost_section import cost_table, how_costs
from archer.report.costs import RuleCost, ledger_costs
from archer.report.decisions import confirmation_sentence
from archer.report.facts import Facts, RuleFacts, rule_facts
from archer.report.language import catalogue
from archer.report.measured import noise_section
from archer.report.note import labels
from archer.report.tree import (
    Block,
    Bullets,
    Cell,
    Figure,
    Inline,
    Note,
    Panel,
    Paragraph,
    Row,
    Section,
    Span,
    Table,
    code,
    quoted,
)
from archer.report.wording import Wording, name_cell, simple_table, text_cell

if TYPE_CHECKING:
    from collections.abc import Iterable

    from archer.ledger.store import Ledger
    from archer.rules import Rule


@dataclass(frozen=True)
class Spent:
    """What a campaign has used. training_seconds: wall time of its trainings. gpu_seconds: wall seconds of
    training processes on GPUs, those of all GPUs added up. dollars: for language models. gpu_hours_allowed:
    None where nothing was said.
    """

    training_seconds: float = 0.0
    gpu_seconds: float = 0.0
    dollars: float = 0.0
    gpu_hours_allowed: float | None = None


@dataclass(frozen=True)
class Campaign:
    """Many cycles: the records of a ledger, in the order in which they were kept. The last verdict counts.

    costs: preset to rule to cost. spent: what it took, where that is known.
    """

    cycles: tuple[CycleRecord, ...]
    proposals: tuple[ProposalRecord, ...] = ()
    verdicts: tuple[VerdictRecord, ...] = ()
    runs: tuple[RunRecord, ...] = ()
    rules: Mapping[str, RuleFacts] = field(default_factory=dict)
    reference: str = "gated_delta_net"
    costs: Mapping[str, Mapping[str, RuleCost]] = field(default_factory=dict)
    spent: Spent | None = None

    def proposal(self, cycle: CycleRecord) -> ProposalRecord | None:
        """What a cycle proposed."""
        return next((found for found in self.proposals if found.id == cycle.proposal), None)

    def verdict(self, proposal: str | None) -> VerdictRecord | None:
        """The last verdict on a proposal."""
        return next((found for found in reversed(self.verdicts) if found.proposal == proposal), None)

    @property
    def changes(self) -> tuple[ProposalRecord, ...]:
        """What was proposed, each change once: a promotion is the same change on a dearer rung."""
        return tuple(proposal for proposal in self.proposals if not proposal.promoted_from)

    def best_verdict(self, change: ProposalRecord) -> VerdictRecord | None:
        """The last verdict on a change that may rank, on whatever rung; None where there is none."""
        names = {change.id, *(p.id for p in self.proposals if p.promoted_from == change.id)}
        return next((v for v in reversed(self.verdicts) if v.proposal in names and v.ranks), None)

    def last_verdicts(self) -> tuple[VerdictRecord, ...]:
        """One verdict per proposal and preset, the last."""
        return tuple({(found.proposal, found.preset): found for found in self.verdicts}.values())


def gather_campaign(ledger: Ledger, rules: Iterable[Rule] = ()) -> Campaign:
    """Everything a ledger holds, as one campaign."""
    runs = ledger.runs()
    presets = dict.fromkeys(run.preset for run in runs)
    return Campaign(
        cycles=ledger.cycles(),
        proposals=ledger.proposals(),
        verdicts=ledger.verdicts(),
        runs=runs,
        costs={name: ledger_costs(ledger, [run for run in runs if run.preset == name]) for name in presets},
        rules={rule.name: rule_facts(rule) for rule in rules},
    )


def summarise(campaign: Campaign, language: str = "en") -> Note:
    """The note of a campaign. Raises UserError for an unknown language."""
    words = Wording(catalogue(language))
    sections = (
        _best_section(campaign, words),
        _cost_section(campaign, words),
        _cycles_section(campaign, words),
        _learned_section(campaign, words),
        _calibration_section(campaign, words),
        _noise(campaign, words),
        _next_section(campaign, words),
    )
    return Note(
        title=words.catalogue.count("title.summary", len(campaign.cycles)),
        language=language,
        lead=tuple(_lead(campaign, words)),
        sections=tuple(section for section in sections if section.blocks),
        contents=words.text("label.contents"),
        labels=labels(words),
    )


def _lead(campaign: Campaign, words: Wording) -> Iterator[Block]:
    language = words.catalogue.language
    trained = {run.trained_as: run.status for run in campaign.runs}
    states = {
        state: sum(cycle.state == state for cycle in campaign.cycles)
        for state in ("finished", "rejected", "failed", "running")
    }
    yield Paragraph(
        words.inline(
            "summary.lead",
            cycles=len(campaign.cycles),
            runs=numbers.count(len(trained)),
            lost=sum(status not in ("finished", "dropped") for status in trained.values()),
            span=words.duration(_span(campaign.cycles)),
            cycling=words.duration(_total(map(_elapsed, campaign.cycles))),
            training=words.duration(_total(cycle.wall_seconds for cycle in campaign.cycles)),
            **states,
        )
    )
    if campaign.spent is not None:
        yield Paragraph(words.inline("summary.spent", spent=describe_spent(campaign.spent, language)))
    ranked = [verdict for verdict in campaign.last_verdicts() if verdict.ranks]
    winners = [verdict for verdict in ranked if verdict.against_reference.beats_on_all]
    for verdict in winners:
        yield Paragraph(
            words.inline(
                "summary.winner", rule=verdict.rule, reference=campaign.reference, preset=verdict.preset
            ),
            "better",
        )
    if not winners:
        yield Paragraph(words.inline("summary.no_winner", reference=code(campaign.reference)))
    for verdict in ranked:
        if verdict.confirmation is not None:
            yield Paragraph(confirmation_sentence(verdict.confirmation, words))
    for preset in dict.fromkeys(verdict.preset for verdict in campaign.verdicts if not verdict.ranks):
        yield Paragraph(words.inline("lead.ranks_nothing", preset=preset), "warning")


def _total(seconds: Iterable[float | None]) -> float:
    """Of what took any time that is known."""
    return sum(one for one in seconds if one is not None)


def _span(cycles: Sequence[CycleRecord]) -> float:
    """Seconds from the beginning of the campaign, or its first cycle, to the end of the last that ended."""
    starts = [one for cycle in cycles for one in (cycle.started_at, cycle.settings.get("started")) if one]
    ends = [cycle.finished_at for cycle in cycles if cycle.finished_at]
    if not ends:
        return 0.0
    begun, ended = min(map(datetime.fromisoformat, starts)), max(map(datetime.fromisoformat, ends))
    return (ended - begun).total_seconds()


def _elapsed(cycle: CycleRecord) -> float | None:
    """Seconds from a cycle's beginning to its end, interruptions included."""
    return numbers.elapsed_seconds(cycle.started_at, cycle.finished_at)


def describe_spent(spent: Spent, language: str = "en") -> str:
    """What was spent, in words: always the time of training, the rest only where there was any of it."""
    words = Wording(catalogue(language))
    parts = [words.text("spent.training", time=words.duration(spent.training_seconds))]
    time = words.duration(spent.gpu_seconds)
    if spent.gpu_hours_allowed is not None:
        allowed = words.duration(3600 * spent.gpu_hours_allowed)
        parts.append(words.text("spent.gpu_of", time=time, allowed=allowed))
    elif spent.gpu_seconds:
        parts.append(words.text("spent.gpu", time=time))
    if spent.dollars:
        parts.append(words.text("spent.dollars", dollars=f"{spent.dollars:.4f}"))
    return words.text("join.comma").join(parts)


def _ranked(campaign: Campaign) -> list[VerdictRecord]:
    """Verdicts that may rank and have a mean difference, the largest first."""
    known = [
        v for v in campaign.last_verdicts() if v.ranks and v.against_reference.mean.difference is not None
    ]
    return sorted(known, key=lambda verdict: -(verdict.against_reference.mean.difference or 0.0))


def _best_section(campaign: Campaign, words: Wording) -> Section:
    ranked = _ranked(campaign)
    if not ranked:
        none = Paragraph(words.inline("summary.best_none"))
        return Section(words.text("heading.best"), "best", (none,))
    caption = words.inline("summary.best", reference=code(campaign.reference))
    columns = (words.text("column.rule"), words.text("column.preset"), words.text("column.on_mean"), *TASKS)
    rows = tuple(Row(_best_cells(verdict, words)) for verdict in ranked[:20])
    table = Table(caption, columns, rows, tuple(range(2, 9)), compact=True)
    return Section(words.text("heading.best"), "best", (_figure(ranked, words), table))


def _best_cells(verdict: VerdictRecord, words: Wording) -> tuple[Cell, ...]:
    comparison = verdict.against_reference
    cells = [name_cell(verdict.rule), text_cell(verdict.preset), text_cell(words.difference(comparison.mean))]
    for line in comparison.tasks:
        heat = None if line.difference is None else max(-1.0, min(1.0, line.difference / 0.3))
        text = words.absent if line.difference is None else numbers.signed(line.difference, "")
        mark = words.word(line.word).split()[0]
        cells.append(Cell((Span(f"{mark} {text}"),), "missing" if line.difference is None else "plain", heat))
    return tuple(cells)


def _figure(ranked: Sequence[VerdictRecord], words: Wording) -> Figure:
    """The mean difference of each rule, with its interval."""
    from dataclasses import replace

    names = {word: words.text(f"word.{word}") for word in ("better", "worse", "same", "undecided")}
    lines = [replace(verdict.against_reference.mean, task=verdict.rule) for verdict in ranked[:12]]
    spec = charts.difference_chart(
        lines, names | {"missing": words.absent}, words.text("figure.difference_axis"), name_width=150
    )
    spoken = words.text("join.semicolon").join(f"{line.task}: {words.difference(line)}" for line in lines)
    return Figure("figure-means", words.inline("figure.mean_scores"), (Panel(spec, spoken),))


def _cost_section(campaign: Campaign, words: Wording) -> Section:
    """What each rule costs beside its mean score, a table for each preset."""
    trained = {name: {run.rule for run in campaign.runs if run.preset == name} for name in campaign.costs}
    blocks: list[Block] = []
    shown: dict[str, RuleCost] = {}
    for preset, costs in campaign.costs.items():
        here = {rule: cost for rule, cost in costs.items() if rule in trained[preset]}
        if here:
            caption = words.inline("cost.table_of_preset", preset=preset)
            blocks.append(cost_table(here, _means(campaign, preset), campaign.rules, words, caption))
            shown |= {f"{preset}/{rule}": cost for rule, cost in here.items()}
    if blocks:
        blocks += how_costs(shown, words)
    return Section(words.text("heading.cost"), "cost", tuple(blocks))


def _means(campaign: Campaign, preset: str) -> dict[str, float | None]:
    """Rule to mean score under a preset: as the last verdicts have it, or by its own runs where it is in
    none."""
    runs = [run for run in campaign.runs if run.preset == preset]
    found = {row.rule: row.mean for row in score_table(runs, preset)}
    for verdict in campaign.last_verdicts():
        for comparison in (verdict.against_parent, verdict.against_reference):
            if verdict.preset == preset:
                found[comparison.baseline] = comparison.mean.baseline
                found[comparison.candidate] = comparison.mean.candidate
    return found


def _cycles_section(campaign: Campaign, words: Wording) -> Section:
    names = "rule cycle proposed_by parent slots preset state on_mean better worse elapsed training"
    columns = tuple(words.text(f"column.{name}") for name in names.split())
    rows = tuple(Row(_cycle_cells(campaign, cycle, words)) for cycle in campaign.cycles)
    caption = words.inline("summary.table", reference=code(campaign.reference))
    blocks: list[Block] = [Table(caption, columns, rows, (7, 10, 11), compact=True)]
    slots = _slot_table(campaign, words)
    if slots.rows:
        blocks.append(slots)
    controls = sum(proposal.control for proposal in campaign.changes)
    if controls:
        blocks.append(Paragraph(words.inline("summary.controls", number=controls)))
    return Section(words.text("heading.cycles"), "cycles", tuple(blocks))


def _cycle_cells(campaign: Campaign, cycle: CycleRecord, words: Wording) -> tuple[Cell, ...]:
    proposal = campaign.proposal(cycle)
    verdict = campaign.verdict(cycle.proposal)
    comparison = verdict.against_reference if verdict else None
    none = words.text("number.none")
    tone = "plain" if cycle.state == "finished" else "worse"
    return (
        name_cell(proposal.rule) if proposal else text_cell(none),
        Cell(code(cycle.id)),
        text_cell(_proposer(proposal, words)) if proposal else text_cell(none),
        name_cell(proposal.parent) if proposal else text_cell(none),
        Cell(words.codes(proposal.slots)) if proposal else text_cell(none),
        text_cell(cycle.preset),
        text_cell(words.text(f"state.{cycle.state}"), tone),
        text_cell(words.difference(comparison.mean) if comparison else none),
        text_cell(_decided(verdict, "better", words)),
        text_cell(_decided(verdict, "worse", words)),
        *(text_cell(words.duration(seconds)) for seconds in (_elapsed(cycle), cycle.wall_seconds)),
    )


def _proposer(proposal: ProposalRecord, words: Wording) -> str:
    """A researcher or a control arm; or who took the place of a model that gave nothing usable."""
    name = proposal.researcher
    if proposal.control:
        return words.text("summary.control", researcher=name)
    in_vain = "requests" in proposal.cost and ":" not in name
    return words.text("summary.stand_in", researcher=name) if in_vain else name


def _decided(verdict: VerdictRecord | None, word: str, words: Wording) -> str:
    if verdict is not None and not verdict.ranks:
        return words.text("word.not_judged")
    tasks = [line.task for line in verdict.against_reference.tasks if line.word == word] if verdict else []
    return words.tasks(tasks) or words.text("number.none")


def _slot_counts(campaign: Campaign) -> dict[str, tuple[int, int, int]]:
    """Slot to: changes judged, tasks better than the parent, tasks worse. A change counts once."""
    found: dict[str, tuple[int, int, int]] = {}
    for proposal in campaign.changes:
        verdict = campaign.best_verdict(proposal)
        if verdict is None:
            continue
        words = [line.word for line in verdict.against_parent.tasks]
        for slot in proposal.slots:
            tried, better, worse = found.get(slot, (0, 0, 0))
            found[slot] = (tried + 1, better + words.count("better"), worse + words.count("worse"))
    return found


def _slot_table(campaign: Campaign, words: Wording) -> Table:
    rows = [(slot, *(str(number) for number in found)) for slot, found in _slot_counts(campaign).items()]
    columns = [words.text(f"column.{name}") for name in ("slots", "judged", "better", "worse")]
    return simple_table(words.inline("summary.slots"), columns, rows, (1, 2, 3))


def _learned_section(campaign: Campaign, words: Wording) -> Section:
    learned = tuple(_learned(campaign, words))
    blocks: list[Block] = [Bullets(learned, words.inline("summary.learned_none"))]
    rejected = [cycle for cycle in campaign.cycles if cycle.state == "rejected"]
    if rejected:
        blocks.append(Paragraph((Span(words.text("summary.rejections"), "strong"),)))
        blocks.append(Bullets(tuple(_rejection(campaign, cycle, words) for cycle in rejected)))
    return Section(words.text("heading.learned"), "learned", tuple(blocks))


def _learned(campaign: Campaign, words: Wording) -> Iterator[Inline]:
    for verdict in (verdict for verdict in campaign.last_verdicts() if verdict.ranks):
        pair = {"rule": code(verdict.rule), "parent": code(verdict.parent)}
        for word, key in (("better", "summary.learned_gain"), ("worse", "summary.learned_loss")):
            tasks = [line for line in verdict.against_parent.tasks if line.word == word]
            if tasks:
                shown = ", ".join(f"{line.task} {words.difference(line)}" for line in tasks)
                yield words.inline(key, tasks=shown, **pair)


def _rejection(campaign: Campaign, cycle: CycleRecord, words: Wording) -> Inline:
    proposal = campaign.proposal(cycle)
    name = proposal.rule if proposal else cycle.id
    return words.inline("summary.rejection", rule=code(name), message=quoted(cycle.message))


def _calibration_section(campaign: Campaign, words: Wording) -> Section:
    rows = [row for name in _researchers(campaign) if (row := _calibration_row(campaign, name, words))]
    names = ("researcher", "judged", "covered", "sign_share", "mean_crps")
    columns = [words.text(f"column.{name}") for name in names]
    caption = words.inline("summary.calibration")
    none = Paragraph(words.inline("summary.calibration_none"))
    blocks: tuple[Block, ...] = (simple_table(caption, columns, rows, (1, 2, 3, 4)),) if rows else (none,)
    return Section(words.text("heading.calibration"), "calibration", blocks)


def _researchers(campaign: Campaign) -> tuple[str, ...]:
    return tuple(dict.fromkeys(proposal.researcher for proposal in campaign.proposals))


def _calibration_row(campaign: Campaign, researcher: str, words: Wording) -> tuple[str, ...] | None:
    scores = [
        score
        for proposal in campaign.proposals
        if proposal.researcher == researcher and (verdict := campaign.verdict(proposal.id))
        for score in verdict.predictions
        if score.measured is not None
    ]
    if not scores:
        return None
    return (
        researcher,
        str(len(scores)),
        _share([score.covered for score in scores]),
        _share([score.sign_right for score in scores]),
        _mean_crps(scores, words),
    )


def _share(answers: Sequence[bool | None]) -> str:
    """5 of 6 as 5/6; what has no answer counts nowhere."""
    known = [answer for answer in answers if answer is not None]
    return f"{sum(known)}/{len(known)}"


def _mean_crps(scores: Sequence[PredictionScore], words: Wording) -> str:
    known = [score.crps for score in scores if score.crps is not None]
    return numbers.score(mean(known) if known else None, words.text("number.none"))


def _noise(campaign: Campaign, words: Wording) -> Section:
    """The last noise floor, and every run without a score."""
    last = campaign.verdicts[-1].noise_floor if campaign.verdicts else {}
    cycle = CycleRecord("", "", 0, "finished", "")
    return noise_section(Facts(cycle, runs=campaign.runs, noise_floor=last), words, linked=False)


def _next_section(campaign: Campaign, words: Wording) -> Section:
    steps = Bullets(tuple(_next_steps(campaign, words)), words.inline("next.nothing"))
    return Section(words.text("heading.next"), "next", (steps,))


def _next_steps(campaign: Campaign, words: Wording) -> Iterator[Inline]:
    if campaign.verdicts and not any(verdict.ranks for verdict in campaign.verdicts):
        commands = {
            name: code(f"archer discover --cycles 10 --preset {name}") for name in ("quick", "baseline")
        }
        yield words.inline("summary.next_rank", preset=campaign.verdicts[-1].preset, **commands)
    ranked = _ranked(campaign)
    if ranked and (ranked[0].against_reference.mean.difference or 0.0) > 0:
        best = ranked[0]
        shown = words.difference(best.against_reference.mean)
        key = "summary.next_best" if best.confirmation is None else "summary.next_larger"
        yield words.inline(key, rule=code(best.rule), difference=shown)
    for slot, (tried, better, _) in _slot_counts(campaign).items():
        if tried >= 2 and not better:
            yield words.inline("summary.next_slot", slot=code(slot), number=tried)
    measured = {run.rule for run in campaign.runs}
    untried = [name for name in campaign.rules if name not in measured]
    if untried:
        yield words.inline("lessons.untried_rules", rules=words.codes(untried))
