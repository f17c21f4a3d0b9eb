"""The sections about what was measured: scores, differences, predictions, curves, and what is missing."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from archer.judge.cells import Cells
from archer.ledger.records import TASKS, Comparison, PredictionScore, RunRecord, TaskComparison
from archer.report import charts, numbers
from archer.report.decisions import confirmation_sentence, decision_sentences, looks_blocks
from archer.report.facts import Facts, stand_ins
from archer.report.observe import short_name
from archer.report.tree import (
    Block,
    Bullets,
    Cell,
    Figure,
    Inline,
    Panel,
    Paragraph,
    Row,
    Section,
    Span,
    Table,
    code,
    plain,
    quoted,
)
from archer.report.wording import (
    MEAN,
    Wording,
    counts,
    lines_of,
    name_cell,
    score_cell,
    simple_table,
    text_cell,
    unfinished,
)


def lead(facts: Facts, words: Wording) -> tuple[Block, ...]:
    """What a reader must know first: the verdict in a few sentences, and whether it may rank at all."""
    return (*_warnings(facts, words), *_verdict_sentences(facts, words))


def _warnings(facts: Facts, words: Wording) -> Iterator[Block]:
    if not facts.may_rank:
        yield Paragraph(words.inline("lead.ranks_nothing", preset=facts.cycle.preset), "warning")
    every = facts.every_run
    lost = [run for run in every if run.status not in ("finished", "dropped")]
    if lost:
        yield Paragraph(words.inline("lead.unfinished", lost=len(lost), runs=len(every)), "warning")
    dropped = sum(run.status == "dropped" for run in every)
    if dropped:
        yield Paragraph(words.inline("lead.raced", dropped=dropped, runs=len(every)))


def _verdict_sentences(facts: Facts, words: Wording) -> Iterator[Block]:
    state = facts.cycle.state
    if state in ("rejected", "failed"):
        yield Paragraph(words.inline(f"lead.{state}", rule=code(facts.candidate or "")), "warning")
        if facts.cycle.message:
            yield Paragraph(quoted(facts.cycle.message))
    for comparison in facts.all_comparisons():
        yield Paragraph(summary_sentence(comparison, words, facts.may_rank))
        yield from (Paragraph(said) for said in decision_sentences(comparison, facts, words))


def summary_sentence(comparison: Comparison, words: Wording, judged: bool = True) -> Inline:
    """One rule against another, in one sentence per word of the verdict; without the words if not judged."""
    pair = {"rule": code(comparison.candidate), "baseline": code(comparison.baseline)}
    if not judged:
        return words.inline("lead.not_judged", difference=words.difference(comparison.mean), **pair)
    spans = [*words.inline("lead.against", **pair)]
    by_word = {word: [line.task for line in comparison.tasks if line.word == word] for word in _WORDS}
    phrases = [
        words.text(f"lead.on_{word}", number=len(tasks), tasks=words.tasks(tasks))
        for word, tasks in by_word.items()
        if tasks
    ]
    spans += [Span(words.text("join.semicolon").join(phrases) + words.text("join.stop"))]
    if comparison.mean.difference is not None:
        spans += words.inline("lead.mean", difference=words.difference(comparison.mean))
    if comparison.beats_on_all:
        spans += words.inline("lead.beats_on_all", **pair)
    full = [line.task for line in comparison.tasks if line.no_room]
    if full:
        said = {"tasks": words.tasks(full), "number": len(full), "preset": comparison.preset}
        spans += words.inline("lead.no_room", baseline=pair["baseline"], **said)
    return tuple(spans)


_WORDS = ("better", "worse", "same", "undecided")


def scores_section(facts: Facts, words: Wording) -> Section:
    """The table of results over six tasks, every measured rule and the tables that came before."""
    blocks: list[Block] = [*_measured_table(facts, words), *_history_tables(facts, words)]
    return Section(words.text("heading.scores"), "scores", tuple(blocks) or (_nothing(words),))


def _measured_table(facts: Facts, words: Wording) -> Iterator[Block]:
    measured = facts.measured()
    if not measured:
        return
    against = measured.get(facts.compared_with, {}) if facts.may_rank else {}
    rows = tuple(_heat_row(rule, scores, against, words, facts) for rule, scores in measured.items())
    key = "scores.measured" if facts.may_rank else "scores.not_judged"
    caption = words.inline(key, preset=facts.cycle.preset, reference=code(facts.compared_with))
    yield Table(caption, _score_columns(words), rows, tuple(range(1, 8)), compact=True)
    yield from _epochs_table(facts, words)


def _epochs_table(facts: Facts, words: Wording) -> Iterator[Block]:
    """After how many epochs the chosen runs solved their task; nothing where none did."""
    cells = Cells((*facts.runs, *stand_ins(facts)), facts.cycle.preset)
    found = {
        rule: [cells.epochs_until_solved(rule, task) for task in TASKS]
        for rule in facts.measured()
        if rule in cells.rules
    }
    rows = [[numbers.epochs(one, words.text("number.none")) for one in tasks] for tasks in found.values()]
    if any(epoch is not None for tasks in found.values() for one in tasks for epoch in one):
        columns = (words.text("column.rule"), *TASKS)
        lines = [Row((name_cell(rule), *map(text_cell, row))) for rule, row in zip(found, rows, strict=True)]
        yield Table(words.inline("epochs.table"), columns, tuple(lines), tuple(range(1, 7)), compact=True)
        yield Paragraph(words.inline("epochs.reading"), "muted")


def _history_tables(facts: Facts, words: Wording) -> Iterator[Block]:
    seen: set[tuple[str, tuple[tuple[str, float], ...]]] = set()
    for table in facts.history:
        rows_here = {(row.model, tuple(sorted(row.scores.items()))) for row in table.rows}
        if rows_here <= seen:
            yield Paragraph(words.inline("scores.repeated", table=code(table.name)), "muted")
            continue
        seen |= rows_here
        scores = {short_name(row.model, facts.aliases): row.scores for row in table.rows}
        against = scores.get(facts.reference, {})
        order = sorted(scores, key=lambda rule: (rule != facts.reference, rule != facts.base))
        rows = tuple(_heat_row(rule, _with_mean(scores[rule]), against, words) for rule in order)
        caption = words.inline("scores.history", table=code(table.name), reference=code(facts.reference))
        yield Table(
            caption, _score_columns(words), rows, tuple(range(1, 8)), folded=len(rows) > 8, compact=True
        )
        yield from (Paragraph(quoted(note), "muted") for note in table.notes)


def _with_mean(scores: dict[str, float]) -> dict[str, float | None]:
    found = [scores.get(task) for task in TASKS]
    known = [value for value in found if value is not None]
    return {**scores, MEAN: sum(known) / len(known) if len(known) == len(TASKS) else None}


def _score_columns(words: Wording) -> tuple[str, ...]:
    return (words.text("column.rule"), *TASKS, words.task(MEAN))


def _heat_row(
    rule: str,
    scores: dict[str, float | None],
    against: dict[str, float | None] | dict[str, float],
    words: Wording,
    facts: Facts | None = None,
) -> Row:
    cells = [name_cell(rule)]
    for task in (*TASKS, MEAN):
        score, other = scores.get(task), against.get(task)
        heat = None if score is None or other is None else max(-1.0, min(1.0, (score - other) / 0.3))
        text: Inline = plain(words.score(score))
        if facts is not None and score is not None and task != MEAN and _anchor_exists(facts, rule, task):
            text = (Span(words.score(score), "link", f"runs-{anchor(rule)}-{anchor(task)}"),)
        cells.append(Cell(text, "plain" if score is not None else "missing", heat))
    return Row(tuple(cells))


def anchor(name: str) -> str:
    """A name as part of an anchor."""
    return "".join(letter if letter.isalnum() else "-" for letter in name.lower())


def _anchor_exists(facts: Facts, rule: str, task: str) -> bool:
    return any(run.rule == rule and run.task == task for run in facts.runs)


def verdict_section(facts: Facts, words: Wording) -> Section:
    """Every difference with its interval, its p-value and its word; and the same as a chart."""
    comparisons = facts.all_comparisons()
    blocks: list[Block] = []
    if comparisons:
        blocks.append(_difference_figure(comparisons, words, facts.may_rank))
    for comparison in comparisons:
        blocks += [
            difference_table(comparison, facts, words),
            *looks_blocks(comparison, words, facts.may_rank),
            *_confirmation(comparison, facts, words),
        ]
    if comparisons:
        key = "verdict.how_to_read" if facts.may_rank else "verdict.not_judged"
        blocks.append(Paragraph(words.inline(key), "muted"))
    return Section(words.text("heading.verdict"), "verdict", tuple(blocks) or (_nothing(words),))


def _difference_figure(comparisons: Sequence[Comparison], words: Wording, judged: bool) -> Figure:
    panels = []
    chart_words = {word: words.text(f"word.{word}") if judged else "" for word in _WORDS}
    chart_words["missing"] = words.absent
    for comparison in comparisons:
        lines = lines_of(comparison)
        shown = [_renamed(line, words, judged) for line in lines]
        title = words.text("figure.minus", rule=comparison.candidate, baseline=comparison.baseline)
        spoken = words.text("join.semicolon").join(
            f"{words.task(line.task)}: {words.difference(line)} "
            f"{words.text(f'word.{line.word}' if judged else 'word.not_judged')}"
            for line in lines
        )
        spec = charts.difference_chart(shown, chart_words, words.text("figure.difference_axis"))
        panels.append(Panel(spec, f"{title}. {spoken}", title))
    return Figure("figure-differences", words.inline("figure.differences"), tuple(panels))


def _renamed(line: TaskComparison, words: Wording, judged: bool) -> TaskComparison:
    """The line under its task's name; where nothing is judged, drawn without a verdict's colour or shape."""
    return replace(line, task=words.task(line.task), word=line.word if judged else "same")


def _confirmation(comparison: Comparison, facts: Facts, words: Wording) -> Iterator[Block]:
    """What the fresh seeds alone say, task by task."""
    found = facts.confirmation_of(comparison)
    if found is not None:
        yield Paragraph(confirmation_sentence(found, words, facts.may_rank))
        alone = replace(facts, runs=facts.fresh_runs)
        yield difference_table(found.comparison, alone, words, "confirmation.table")


def difference_table(
    comparison: Comparison, facts: Facts, words: Wording, caption_key: str = "verdict.table"
) -> Table:
    """Six tasks and the mean: difference, word, p-value, both scores, and what they rest on."""
    rows = tuple(_difference_row(comparison, line, facts, words) for line in lines_of(comparison))
    columns = [
        words.text("column.task"),
        words.text("column.difference"),
        words.text("column.verdict"),
        words.text("column.p_adjusted"),
        comparison.candidate,
        comparison.baseline,
        words.text("column.notes"),
    ]
    caption = words.inline(
        caption_key,
        rule=code(comparison.candidate),
        baseline=code(comparison.baseline),
        preset=comparison.preset,
    )
    return Table(caption, tuple(columns), rows, (1, 3, 4, 5))


def _difference_row(comparison: Comparison, line: TaskComparison, facts: Facts, words: Wording) -> Row:
    none = words.text("number.none")
    probability = numbers.probability(line.p_adjusted, none) if facts.may_rank else none
    notes = _line_notes(comparison, line, facts, words)
    return Row(
        (
            text_cell(words.task(line.task)),
            text_cell(words.difference(line), "plain" if line.difference is not None else "missing"),
            words.word_cell(line) if facts.may_rank else text_cell(words.text("word.not_judged"), "muted"),
            text_cell(probability),
            score_cell(words, line.candidate),
            score_cell(words, line.baseline),
            Cell(notes),
        ),
        new_group=line.task == MEAN,
    )


def _line_notes(comparison: Comparison, line: TaskComparison, facts: Facts, words: Wording) -> Inline:
    """What a number rests on, and why it is not there."""
    parts: list[Inline] = [plain(words.text("note.basis", settings=line.settings, seeds=line.seeds))]
    if line.exact_settings:
        parts.append(plain(words.text("note.exact", exact=line.exact_settings, settings=line.settings)))
    if line.no_room and facts.may_rank:
        parts.append(words.inline(f"note.no_room_{line.no_room}", baseline=code(comparison.baseline)))
    if line.more_seeds and facts.may_rank:
        key = "note.sure" if line.no_room == "both" else "note.more_seeds"
        parts.append(plain(words.catalogue.count(key, line.more_seeds)))
    for rule in (comparison.candidate, comparison.baseline):
        found = unfinished(facts.runs, rule, line.task)
        if found and line.task != MEAN:
            parts.append((Span(rule, "code"), Span(" " + counts(words, found))))
    parts += [quoted(reason) for reason in line.missing]
    joined: list[Span] = []
    for index, part in enumerate(parts):
        joined += [Span(words.text("join.semicolon"))] * bool(index) + list(part)
    return tuple(joined)


def noise_section(facts: Facts, words: Wording, linked: bool = True) -> Section:
    """The noise floor beside the table, and the runs that do not count.

    linked: whether the note has a table of all runs to lead to.
    """
    blocks: list[Block] = []
    if facts.floors:
        none = words.text("number.unknown")
        row = [words.text("noise.row"), *(numbers.score(facts.floors.get(task), none) for task in TASKS)]
        columns = [words.text("column.noise"), *TASKS]
        blocks.append(simple_table(words.inline("noise.table"), columns, [row], range(1, 7)))
        blocks.append(Paragraph(words.inline("noise.reading"), "muted"))
    else:
        blocks.append(Paragraph(words.inline("noise.unknown")))
    return Section(words.text("heading.noise"), "noise", (*blocks, *_lost_runs(facts, words, linked)))


def _lost_runs(facts: Facts, words: Wording, linked: bool) -> Iterator[Block]:
    lost = [run for run in facts.every_run if run.status != "dropped" and _scoreless(run)]
    if not lost:
        yield Paragraph(words.inline("lost.none", runs=len(facts.every_run)))
        return
    columns = tuple(
        words.text(f"column.{name}") for name in ("run", "rule", "task", "setting", "state", "message")
    )
    rows = tuple(_lost_row(run, words, linked) for run in lost)
    yield Table(words.inline("lost.table"), columns, rows, folded=len(rows) > 12)


def _scoreless(run: RunRecord) -> bool:
    return not numbers.is_number(run.held_out) and not numbers.is_number(run.mad)


def _lost_row(run: RunRecord, words: Wording, linked: bool) -> Row:
    status = run.status if run.status != "finished" else "scoreless"
    return Row(
        (
            Cell((Span(run.key[:10], "link", f"run-{run.key[:10]}"),) if linked else code(run.key[:10])),
            name_cell(run.rule),
            text_cell(run.task),
            Cell(quoted(run.setting)),
            text_cell(words.text(f"status.{status}"), "worse"),
            Cell(quoted(run.message)),
        )
    )


def predictions_section(facts: Facts, words: Wording) -> Section:
    """What was expected and what came, task by task."""
    scores = facts.verdict.predictions if facts.verdict else ()
    if not scores:
        return Section(
            words.text("heading.outcomes"), "outcomes", (Paragraph(words.inline("outcomes.none")),)
        )
    rows = tuple(_prediction_row(score, words) for score in scores)
    names = ("task", "predicted", "measured", "inside", "sign", "crps")
    caption = words.inline(
        "outcomes.table", researcher=code(facts.proposal.researcher if facts.proposal else "")
    )
    table = Table(caption, tuple(words.text(f"column.{name}") for name in names), rows, (1, 2, 5))
    return Section(
        words.text("heading.outcomes"),
        "outcomes",
        (_prediction_figure(scores, words), table, Paragraph(_coverage(scores, words)), _crps_note(words)),
    )


def _crps_note(words: Wording) -> Paragraph:
    return Paragraph(words.inline("outcomes.crps"), "muted")


def _prediction_row(score: PredictionScore, words: Wording) -> Row:
    return Row(
        (
            text_cell(score.task),
            text_cell(words.expected(score.predicted, score.low, score.high)),
            score_cell(words, score.measured),
            _yes_no(score.covered, words),
            _yes_no(score.sign_right, words),
            text_cell(numbers.score(score.crps, words.text("number.none"))),
        )
    )


def _yes_no(answer: bool | None, words: Wording) -> Cell:
    if answer is None:
        return text_cell(words.text("number.none"), "missing")
    return text_cell(words.text("answer.yes" if answer else "answer.no"), "better" if answer else "worse")


def _coverage(scores: Sequence[PredictionScore], words: Wording) -> Inline:
    judged = [score for score in scores if score.covered is not None]
    return words.inline(
        "outcomes.coverage", inside=sum(bool(score.covered) for score in judged), judged=len(judged)
    )


def _prediction_figure(scores: Sequence[PredictionScore], words: Wording) -> Figure:
    chart_words = {state: words.text(f"prediction.{state}") for state in ("covered", "missed", "unmeasured")}
    spoken = words.text("join.semicolon").join(
        words.text(
            "figure.prediction_spoken",
            task=score.task,
            predicted=words.score(score.predicted),
            measured=words.score(score.measured),
        )
        for score in scores
    )
    spec = charts.prediction_chart(scores, chart_words, words.text("figure.score_axis"))
    return Figure("figure-predictions", words.inline("figure.predictions"), (Panel(spec, spoken),))


def curves_section(facts: Facts, words: Wording) -> Section:
    """Test accuracy by epoch, for the runs whose scores count, on one setting of each task."""
    order = facts.in_order(run.rule for run in facts.runs)
    panels = [panel for task in TASKS if (panel := _curve_panel(facts, task, order, words)) is not None]
    if not panels:
        return Section(words.text("heading.curves"), "curves", (Paragraph(words.inline("curves.none")),))
    caption = words.inline("figure.curves")
    figure = Figure("figure-curves", caption, tuple(panels))
    return Section(words.text("heading.curves"), "curves", (figure,))


def _curve_panel(facts: Facts, task: str, order: Sequence[str], words: Wording) -> Panel | None:
    setting = _shown_setting(facts.runs, task)
    if setting is None:
        return None
    chosen = _chosen_runs(facts.runs, task, setting)
    curves = [
        charts.Curve(run.rule, points)
        for run in chosen
        if (points := tuple((p.epoch, p.test_accuracy) for p in run.curve if p.test_accuracy is not None))
    ]
    if not curves:
        return None
    titles = (words.text("figure.epoch_axis"), words.text("figure.accuracy_axis"))
    spec = charts.curve_chart(curves, order, titles, facts.chance.get(task))
    ends = {curve.rule: curve.points[-1][1] for curve in curves}
    spoken = words.text("join.comma").join(f"{rule} {value:.3f}" for rule, value in ends.items())
    description = words.text("figure.curve_spoken", task=task, ends=spoken)
    return Panel(spec, description, f"{task} · {setting}" if setting != task else task)


def _shown_setting(runs: Sequence[RunRecord], task: str) -> str | None:
    """The setting that most rules have curves for; among equals a baseline, then the first by name."""
    found: dict[str, set[str]] = {}
    for run in runs:
        if run.task == task and run.curve:
            found.setdefault(run.setting, set()).add(run.rule)
    order = sorted(found, key=lambda name: (-len(found[name]), "baseline" not in name, name))
    return order[0] if order else None


def _chosen_runs(runs: Sequence[RunRecord], task: str, setting: str) -> list[RunRecord]:
    """The runs that the judge chose: one per rule and seed, by validation accuracy."""
    here = [run for run in runs if run.task == task and run.setting == setting]
    by_key = {run.key: run for run in here}
    chosen = []
    for preset in dict.fromkeys(run.preset for run in here):
        cells = Cells(here, preset)
        places = dict.fromkeys((run.rule, task, setting, run.seed) for run in here if run.preset == preset)
        chosen += [by_key[key] for place in places if (key := cells.cell(place).run_key) is not None]
    return chosen


def limits_section(facts: Facts, words: Wording) -> Section:
    """What these results cannot say."""
    items: list[Inline] = []
    if not facts.may_rank:
        items.append(words.inline("limits.ranks", preset=facts.cycle.preset))
    seeds = {run.seed for run in facts.runs}
    if facts.runs:
        items.append(
            words.inline("limits.seeds.one" if len(seeds) == 1 else "limits.seeds.other", number=len(seeds))
        )
    exact = max((line.exact_settings for c in facts.all_comparisons() for line in c.tasks), default=0)
    if exact:
        items.append(words.inline("limits.exact"))
    if len(facts.history) > 1:
        items.append(words.inline("limits.tables"))
    items.append(words.inline("limits.tasks"))
    return Section(words.text("heading.limits"), "limits", (Bullets(tuple(items)),))


def _nothing(words: Wording) -> Paragraph:
    return Paragraph(words.inline("scores.nothing"))
