"""The sections about why: past trials, the place at fault, the reasoning, the expectation, the lessons."""

from __future__ import annotations

import difflib
from collections.abc import Iterator

from archer.ledger.history import HistoryTable
from archer.ledger.records import TASKS, VerdictRecord
from archer.report import numbers
from archer.report.cost_section import cost_blocks
from archer.report.facts import Facts, RuleFacts, declarations, lineage, slot_in_effect
from archer.report.observe import Change, Trial, short_name, trials, without_repeats
from archer.report.tree import (
    Ancestor,
    Block,
    Bullets,
    Cell,
    Code,
    Difference,
    Inline,
    Lineage,
    Paragraph,
    Quote,
    Row,
    Section,
    Table,
    code,
    quoted,
)
from archer.report.wording import MEAN, Wording, lines_of, name_cell, text_cell


def past_trials(facts: Facts) -> tuple[Trial, ...]:
    """Every trial of the history, each set of numbers once."""
    found = [trial for table in facts.history for trial in _trials(facts, table)]
    return without_repeats(found)


def _trials(facts: Facts, table: HistoryTable) -> tuple[Trial, ...]:
    return trials(table, facts.aliases, facts.base, facts.reference)


def observations_section(facts: Facts, words: Wording) -> Section:
    """The biggest gain and the biggest loss of every past trial, from the tables and from the ledger."""
    found = past_trials(facts)
    blocks: list[Block] = []
    if facts.proposal and facts.proposal.insights:
        blocks.append(Quote(facts.proposal.insights, facts.proposal.researcher))
    if found:
        blocks.append(Bullets(tuple(_sentences(found, facts, words))))
        blocks.append(_trials_table(found, facts, words))
    if facts.past:
        blocks.append(_past_table(facts, words))
    return Section(
        words.text("heading.observations"),
        "observations",
        tuple(blocks) or (_none("observations.none", words),),
    )


def _sentences(found: tuple[Trial, ...], facts: Facts, words: Wording) -> Iterator[Inline]:
    gain = max((t for t in found if t.gain), key=lambda t: t.gain.difference if t.gain else 0.0, default=None)
    loss = min((t for t in found if t.loss), key=lambda t: t.loss.difference if t.loss else 0.0, default=None)
    if gain and gain.gain:
        yield words.inline(
            "observations.best", rule=code(gain.model), **_change(gain.gain), table=code(gain.table)
        )
    if loss and loss.loss:
        yield words.inline(
            "observations.worst", rule=code(loss.model), **_change(loss.loss), table=code(loss.table)
        )
    for task in TASKS:
        ahead = list(dict.fromkeys(trial.model for trial in found if task in trial.ahead))
        key = "observations.ahead" if ahead else "observations.none_ahead"
        yield words.inline(key, task=task, reference=code(facts.reference), rules=words.codes(ahead))
    if not any(len(trial.ahead) == len(TASKS) for trial in found):
        yield words.inline("observations.unmet", reference=code(facts.reference))


def _change(change: Change) -> dict[str, str]:
    return {"task": change.task, "difference": numbers.signed(change.difference, "")}


def _trials_table(found: tuple[Trial, ...], facts: Facts, words: Wording) -> Table:
    rows = []
    for index, trial in enumerate(found):
        new_table = bool(index) and found[index - 1].table != trial.table
        rows.append(Row(_trial_cells(trial, words), new_group=new_table))
    names = ("rule", "table", "gain", "loss", "mean", "ahead")
    caption = words.inline("observations.table", base=code(facts.base), reference=code(facts.reference))
    return Table(caption, tuple(words.text(f"column.{name}") for name in names), tuple(rows), (4,))


def _trial_cells(trial: Trial, words: Wording) -> tuple[Cell, ...]:
    return (
        name_cell(trial.model),
        Cell(code(trial.table)),
        _change_cell(trial.gain, words),
        _change_cell(trial.loss, words),
        text_cell(numbers.signed(trial.mean_difference, words.absent)),
        text_cell(words.tasks(trial.ahead) or words.text("number.none")),
    )


def _change_cell(change: Change | None, words: Wording) -> Cell:
    if change is None:
        return text_cell(words.text("number.none"), "muted")
    return text_cell(f"{change.task} {numbers.signed(change.difference, '')}")


def _past_table(facts: Facts, words: Wording) -> Table:
    """Earlier verdicts of this ledger, with intervals and words."""
    rows = tuple(Row(_past_cells(verdict, words)) for verdict in facts.past)
    names = ("rule", "parent", "preset", "gain", "loss", "verdict")
    caption = words.inline("observations.past", reference=code(facts.reference))
    return Table(caption, tuple(words.text(f"column.{name}") for name in names), rows, folded=len(rows) > 12)


def _past_cells(verdict: VerdictRecord, words: Wording) -> tuple[Cell, ...]:
    comparison = verdict.against_reference
    known = [line for line in comparison.tasks if line.difference is not None]
    best = max(known, key=lambda line: line.difference or 0.0, default=None)
    worst = min(known, key=lambda line: line.difference or 0.0, default=None)
    return (
        name_cell(verdict.rule),
        name_cell(verdict.parent),
        text_cell(verdict.preset),
        text_cell(f"{best.task} {words.difference(best)}" if best else words.absent),
        text_cell(f"{worst.task} {words.difference(worst)}" if worst else words.absent),
        text_cell(_tally(verdict, words)),
    )


def _tally(verdict: VerdictRecord, words: Wording) -> str:
    """How many tasks have which word; no words where the preset ranks nothing."""
    if not verdict.ranks:
        return words.text("word.not_judged")
    found = [line.word for line in verdict.against_reference.tasks]
    counted = {word: found.count(word) for word in ("better", "worse", "same", "undecided")}
    return words.text("observations.tally", **counted)


def fault_section(facts: Facts, words: Wording) -> Section:
    """The lines of the parent that the change replaces."""
    proposal = facts.proposal
    if proposal is None:
        return Section(words.text("heading.fault"), "fault", ())
    blocks: list[Block] = []
    slots = proposal.slots or (facts.rules[proposal.rule].slots if proposal.rule in facts.rules else ())
    for slot in slots:
        place = slot_in_effect(proposal.parent, slot, facts.rules)
        if place is None:
            blocks.append(
                Paragraph(words.inline("fault.no_place", slot=code(slot), parent=code(proposal.parent)))
            )
            continue
        last = place.first_line + len(place.lines) - 1
        where = {
            "file": code(f"{place.rule}.py"),
            "first": place.first_line,
            "last": last,
            "slot": code(slot),
        }
        blocks.append(Code("\n".join(place.lines), words.inline("fault.place", **where), place.first_line))
    if proposal.issue:
        blocks.append(Quote(proposal.issue, proposal.researcher))
    return Section(words.text("heading.fault"), "fault", tuple(blocks) or (_none("fault.unnamed", words),))


def reasoning_section(facts: Facts, words: Wording) -> Section:
    """The equation before and after, and the researcher's own words."""
    proposal = facts.proposal
    if proposal is None:
        return Section(words.text("heading.reasoning"), "reasoning", ())
    blocks: list[Block] = []
    for role, name in (("reasoning.parent", proposal.parent), ("reasoning.candidate", proposal.rule)):
        rule = facts.rules.get(name)
        if rule and rule.equation:
            caption = words.inline(role, rule=code(name))
            blocks.append(Code(rule.equation, caption, language="text"))
    blocks += [
        Quote(text, proposal.researcher)
        for text in dict.fromkeys((proposal.reason, proposal.reasoning))
        if text
    ]
    if proposal.cites:
        blocks.append(Paragraph(words.inline("reasoning.cites", cites=quoted("; ".join(proposal.cites)))))
    return Section(words.text("heading.reasoning"), "reasoning", tuple(blocks))


def expectation_section(facts: Facts, words: Wording) -> Section:
    """Numbers expected before anything was trained, task by task, against the reference."""
    proposal = facts.proposal
    if proposal is None:
        return Section(words.text("heading.expectation"), "expectation", ())
    reference, source = _known_scores(facts, words)
    reasons = bool(proposal.per_task)
    names = ["task", "expected", "reference", "expected_difference", *(["why"] if reasons else [])]
    rows = []
    for prediction in proposal.predictions:
        known = reference.get(prediction.task)
        difference = None if known is None else prediction.score - known
        ends = (None, None) if known is None else (prediction.low - known, prediction.high - known)
        cells = [
            text_cell(prediction.task),
            text_cell(words.expected(prediction.score, prediction.low, prediction.high)),
            text_cell(numbers.score(known, words.text("number.unknown"))),
            text_cell(
                words.text("number.unknown")
                if difference is None
                else f"{numbers.signed(difference, '')} {numbers.interval(*ends, '')}"
            ),
        ]
        rows.append(
            Row((*cells, *([Cell(quoted(proposal.per_task.get(prediction.task, "")))] if reasons else [])))
        )
    caption = words.inline("expectation.table", reference=code(facts.reference), source=source)
    table = Table(caption, tuple(words.text(f"column.{name}") for name in names), tuple(rows), (1, 2, 3))
    blocks = (table,) if rows else (_none("expectation.none", words),)
    return Section(words.text("heading.expectation"), "expectation", blocks)


def _known_scores(facts: Facts, words: Wording) -> tuple[dict[str, float], Inline]:
    """The reference's scores: as measured in this cycle where that may rank, else from the first table."""
    measured = facts.measured().get(facts.reference) if facts.may_rank else None
    if measured and any(value is not None for value in measured.values()):
        return {task: value for task, value in measured.items() if value is not None}, words.inline(
            "source.measured"
        )
    for table in facts.history:
        for row in table.rows:
            if short_name(row.model, facts.aliases) == facts.reference:
                return dict(row.scores), words.inline("source.table", table=code(table.name))
    return {}, words.inline("source.none")


def lessons_section(facts: Facts, words: Wording) -> Section:
    """What worked, what failed, what has not been tried."""
    found = past_trials(facts)
    worked = [t for t in found if t.gain and t.gain.difference >= NOTABLE]
    failed = [t for t in found if t.loss and t.loss.difference <= -NOTABLE]
    blocks: list[Block] = []
    if facts.proposal and facts.proposal.lessons:
        blocks.append(Quote(facts.proposal.lessons, facts.proposal.researcher))
    blocks += [
        Paragraph(
            words.inline("lessons.threshold", threshold=f"{NOTABLE:.2f}", base=code(facts.base)), "muted"
        ),
        Paragraph(words.inline("lessons.worked")),
        Bullets(
            tuple(_lesson(t, t.gain, words) for t in worked if t.gain)
            + tuple(_ledger_lessons(facts, words, "better")),
            words.inline("lessons.nothing"),
        ),
        Paragraph(words.inline("lessons.failed")),
        Bullets(
            tuple(_lesson(t, t.loss, words) for t in failed if t.loss)
            + tuple(_ledger_lessons(facts, words, "worse")),
            words.inline("lessons.nothing"),
        ),
        Paragraph(words.inline("lessons.untried")),
        Bullets(tuple(_untried(facts, words)), words.inline("lessons.nothing")),
    ]
    return Section(words.text("heading.lessons"), "lessons", tuple(blocks))


NOTABLE = 0.05
"""A past difference below this is not called a lesson: eight rules that are one function on Memorize differ
there by 0.02 (one standard deviation) in the built-in tables."""


def _lesson(trial: Trial, change: Change, words: Wording) -> Inline:
    return words.inline("lessons.trial", rule=code(trial.model), **_change(change), table=code(trial.table))


def _ledger_lessons(facts: Facts, words: Wording, word: str) -> Iterator[Inline]:
    for verdict in (verdict for verdict in facts.past if verdict.ranks):
        tasks = [line.task for line in verdict.against_reference.tasks if line.word == word]
        if tasks:
            yield words.inline(
                f"lessons.ledger_{word}",
                rule=code(verdict.rule),
                tasks=words.tasks(tasks),
                preset=verdict.preset,
            )


def _untried(facts: Facts, words: Wording) -> Iterator[Inline]:
    """Rules that exist and have no numbers, and slots that nobody has changed."""
    tried = {short_name(row.model, facts.aliases) for table in facts.history for row in table.rows}
    tried |= {verdict.rule for verdict in facts.past} | {run.rule for run in facts.runs}
    rules = [name for name in facts.rules if name not in tried and name != facts.candidate]
    if rules:
        yield words.inline("lessons.untried_rules", rules=words.codes(rules))
    touched = {slot for name in tried for slot in (facts.rules[name].slots if name in facts.rules else ())}
    slots = [slot for slot in SLOTS if slot not in touched - _base_slots(facts)]
    if slots:
        yield words.inline("lessons.untried_slots", slots=words.codes(slots))


SLOTS = ("prepare", "similarity", "correct", "read", "retain", "write")


def _base_slots(facts: Facts) -> set[str]:
    """Slots that only the base itself fills: it must fill them all, which is no trial."""
    others = {slot for name, rule in facts.rules.items() if name != facts.base for slot in rule.slots}
    return {slot for slot in SLOTS if slot not in others}


def implementation_section(facts: Facts, words: Wording) -> Section:
    """The change as a difference of effective code, what stays the same, its lineage."""
    proposal = facts.proposal
    if proposal is None:
        return Section(words.text("heading.implementation"), "implementation", ())
    rule = facts.rules.get(proposal.rule, RuleFacts(proposal.rule, proposal.parent, source=proposal.source))
    rules = {**facts.rules, proposal.rule: rule}
    slots = proposal.slots or rule.slots
    chain = lineage(proposal.rule, rules)
    steps = tuple(Ancestor(r.name, r.title, r.equation, r.rule_hash) for r in chain)
    blocks: list[Block] = [
        Lineage(steps, words.inline("implementation.lineage")),
        Paragraph(words.inline("implementation.where", slots=words.codes(slots), rule=code(proposal.rule))),
        Difference(
            effective_difference(proposal.parent, rule, slots, rules),
            words.inline("implementation.difference", parent=code(proposal.parent), rule=code(proposal.rule)),
        ),
        Bullets(tuple(_unchanged(facts, words))),
        *_checks(facts, words),
        Code(
            proposal.source.rstrip("\n"),
            words.inline("implementation.file", file=code(f"{proposal.rule}.py")),
            1,
        ),
    ]
    return Section(words.text("heading.implementation"), "implementation", tuple(blocks))


def cost_section(facts: Facts, words: Wording) -> Section:
    """What every rule costs beside what it scores, and what a gain was bought with."""
    blocks = tuple(cost_blocks(facts, words))
    return Section(words.text("heading.cost"), "cost", blocks or (_none("cost.none", words),))


def effective_difference(
    parent: str, rule: RuleFacts, slots: tuple[str, ...], rules: dict[str, RuleFacts]
) -> tuple[str, ...]:
    """The code that runs, before and after: declarations and changed slots, marked "+", "-" or " ".

    A rule file says only what differs, so a difference of the two files would show everything as removed.
    """
    lines: list[str] = []
    known = declarations(rules[parent]) if parent in rules else ()
    mine = declarations(rule)
    if mine:
        lines += _unified(tuple(line for line in known if line in mine), mine)
    for slot in slots:
        before, after = slot_in_effect(parent, slot, rules), slot_in_effect(rule.name, slot, rules)
        lines += _unified(before.lines if before else (), after.lines if after else ())
    return tuple(lines)


def _unified(before: tuple[str, ...], after: tuple[str, ...]) -> list[str]:
    matcher = difflib.ndiff(list(before), list(after))
    found = [f"{line[0]}{line[2:]}" for line in matcher if line[0] in " +-"]
    return [*found, ""] if found else []


def _unchanged(facts: Facts, words: Wording) -> Iterator[Inline]:
    """What verification proved to stay the same. What it did not check is not claimed."""
    checks = {check.name: check for check in facts.verification.checks} if facts.verification else {}
    yield words.inline("implementation.signature")
    for name, check in checks.items():
        if check.passed and "causal" in name:
            yield words.inline("implementation.causal")
    if facts.proposal and "step" not in facts.proposal.slots:
        yield words.inline("implementation.order")


def _checks(facts: Facts, words: Wording) -> Iterator[Block]:
    verification = facts.verification
    if verification is None:
        yield _none("checks.none", words)
        return
    rows = tuple(
        Row(
            (
                Cell(quoted(check.name)),
                text_cell(
                    words.text("answer.passed" if check.passed else "answer.failed"),
                    "better" if check.passed else "worse",
                ),
                Cell(quoted("; ".join(part for part in (check.message, check.case) if part))),
                text_cell(words.duration(check.seconds)),
            )
        )
        for check in verification.checks
    )
    columns = tuple(words.text(f"column.{name}") for name in ("check", "outcome", "message", "check_time"))
    yield Table(words.inline("checks.table"), columns, rows, (3,), folded=len(rows) > 12)
    if verification.duplicate_of:
        yield Paragraph(words.inline("checks.duplicate", other=code(verification.duplicate_of)), "warning")
    if verification.reach is not None:
        yield Paragraph(words.inline("checks.reach", number=len(verification.reach)))


def next_steps_section(facts: Facts, words: Wording) -> Section:
    """What the numbers ask for next."""
    return Section(
        words.text("heading.next"),
        "next",
        (Bullets(tuple(_next_steps(facts, words)), words.inline("next.nothing")),),
    )


def _next_steps(facts: Facts, words: Wording) -> Iterator[Inline]:
    rule = facts.candidate or next((c.candidate for c in facts.all_comparisons()), "")
    if facts.cycle.state == "rejected":
        yield words.inline("next.rejected")
    if facts.all_comparisons() and not facts.may_rank:
        yield words.inline(
            "next.rank", rule=code(rule), command=code(f"archer bench {rule} --preset baseline")
        )
    for comparison in facts.all_comparisons() if facts.may_rank else ():
        if comparison.baseline != facts.reference:
            continue
        open_tasks = [line.task for line in comparison.tasks if line.may_be_won]
        if open_tasks:
            yield words.inline(
                "next.undecided", rule=code(comparison.candidate), tasks=words.tasks(open_tasks)
            )
        if comparison.beats_on_all and facts.confirmation_of(comparison) is None:
            yield words.inline("next.confirm", rule=code(comparison.candidate))
        behind = [line for line in lines_of(comparison) if line.word == "worse" and line.task != MEAN]
        if behind:
            worst = min(behind, key=lambda line: line.difference or 0.0)
            yield words.inline(
                "next.worst",
                rule=code(comparison.candidate),
                task=worst.task,
                difference=words.difference(worst),
            )
    if any(run.status not in ("finished", "dropped") for run in facts.runs):
        yield words.inline("next.unfinished")
    missed = [s.task for s in (facts.verdict.predictions if facts.verdict else ()) if s.covered is False]
    if missed and facts.may_rank:
        yield words.inline("next.missed", tasks=words.tasks(missed))
    yield from _untried(facts, words)


def _none(key: str, words: Wording) -> Paragraph:
    return Paragraph(words.inline(key))
