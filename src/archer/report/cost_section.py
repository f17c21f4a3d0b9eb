"""Cost beside score in a note: the table, the two drawings, and gains that were bought with parameters."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from archer.ledger.records import Comparison
from archer.report import charts, numbers
from archer.report.costs import NOTICEABLE, RuleCost, Surplus
from archer.report.facts import Facts, RuleFacts
from archer.report.measured import difference_table
from archer.report.tree import Block, Figure, Inline, Panel, Paragraph, Row, Table, code, quoted
from archer.report.wording import MEAN, Wording, name_cell, score_cell, text_cell

COLUMNS = ("parameters", "carried", "operations", "step", "decoding")


def cost_blocks(facts: Facts, words: Wording) -> Iterator[Block]:
    """Everything that a note says of cost; nothing where no rule was trained."""
    costs = {rule: facts.costs[rule] for rule in facts.in_order(facts.costs)}
    if costs:
        means = {rule: scores.get(MEAN) for rule, scores in facts.measured().items()}
        yield cost_table(costs, means, facts.rules, words, words.inline("cost.table"))
        yield from how_costs(costs, words)
    yield from _figure(costs, facts, words)
    for surplus in facts.surpluses:
        yield from _surplus(surplus, facts, words)
    if facts.proposal and facts.proposal.cost:
        said = ", ".join(f"{name} {value:g}" for name, value in facts.proposal.cost.items())
        yield Paragraph(words.inline("cost.expected", said=quoted(said)))


def cost_table(
    costs: Mapping[str, RuleCost],
    means: Mapping[str, float | None],
    rules: Mapping[str, RuleFacts],
    words: Wording,
    caption: Inline,
) -> Table:
    """A line per rule: its mean score beside what it costs."""
    rows = []
    for rule, cost in costs.items():
        carried = ", ".join(rules[rule].carries) if rule in rules else ""
        cells = [text_cell(text) for text in cost_cells(cost, words)]
        mean = score_cell(words, means.get(rule))
        rows.append(Row((name_cell(rule), mean, *cells, text_cell(carried or words.text("number.none")))))
    columns = tuple(words.text(f"column.{name}") for name in ("rule", "mean_score", *COLUMNS, "carries"))
    return Table(caption, columns, tuple(rows), (1, 2, 3, 4, 5, 6))


def how_costs(costs: Mapping[str, RuleCost], words: Wording) -> Iterator[Block]:
    """What the numbers of a cost table are, and where the speeds were measured."""
    yield Paragraph(words.inline("cost.how"), "muted")
    key, where = machines(costs, words)
    yield Paragraph(words.inline(key, **{name: quoted(text) for name, text in where.items()}), "muted")


def cost_cells(cost: RuleCost, words: Wording) -> tuple[str, ...]:
    """A cost in words, in the order of COLUMNS; what is not known says so."""
    none = words.text("number.unknown")
    return (
        none if cost.parameters is None else numbers.count(cost.parameters),
        _state(cost, words),
        _operations(cost, words),
        " / ".join(_short(1e3 * seconds) for seconds in cost.step_seconds.values()) or none,
        " / ".join(_short(1e6 * one.seconds) for one in cost.decoding) or none,
    )


def _state(cost: RuleCost, words: Wording) -> str:
    """Of a fixed size, or what each token adds to it."""
    if cost.state_per_token is not None:
        return words.text("cost.per_token", number=numbers.count(cost.state_per_token))
    if cost.state_per_head is None:
        return words.text("number.unknown")
    return f"{numbers.count(cost.state_per_head)} × {cost.heads}"


def _operations(cost: RuleCost, words: Wording) -> str:
    """Per token, and at which length where they grow with it."""
    if cost.operations_per_token is None:
        return words.text("number.unknown")
    number = numbers.count(cost.operations_per_token)
    if cost.counted_at is None:
        return number
    return words.text("cost.at_length", number=number, tokens=numbers.count(cost.counted_at))


def _short(value: float) -> str:
    """Three figures: 0.123, 12.3, 1,234."""
    return f"{value:,.0f}" if value >= 100 else f"{value:#.3g}"


def machines(costs: Mapping[str, RuleCost], words: Wording) -> tuple[str, dict[str, str]]:
    """Where the two speeds were measured, in the order in which they stand in a cell: the sentence's key,
    and what stands in its places."""
    devices = dict.fromkeys(device for cost in costs.values() for device in cost.step_seconds)
    decoders = dict.fromkeys(
        f"{one.machine}, torch {one.torch}" for c in costs.values() for one in c.decoding
    )
    training = " / ".join(devices) or words.text("number.unknown")
    if not decoders:
        return "cost.not_decoded", {"training": training}
    return "cost.machines", {"training": training, "decoding": " / ".join(decoders)}


# Score over cost


def _figure(costs: Mapping[str, RuleCost], facts: Facts, words: Wording) -> Iterator[Block]:
    """Mean score over parameters, and over operations per token."""
    points = _points(costs, facts)
    axes = {"parameters": charts.CostPoint.of_parameters, "operations": charts.CostPoint.of_operations}
    panels = []
    for name, value in axes.items():
        known = [point for point in points if value(point) is not None]
        if len(known) < 2:
            continue
        titles = (words.text(f"figure.{name}_axis"), words.text("figure.mean_axis"))
        spoken = words.text("join.semicolon").join(
            _spoken(point, name, value(point), words) for point in known
        )
        spec = charts.cost_chart(known, value, titles, front=facts.may_rank)
        panels.append(Panel(spec, spoken, words.text(f"figure.over_{name}")))
    if panels:
        caption = words.inline("figure.cost" if facts.may_rank else "figure.cost_not_judged",
                               reference=code(facts.compared_with))  # fmt: skip
        yield Figure("figure-cost", caption, tuple(panels))


def _points(costs: Mapping[str, RuleCost], facts: Facts) -> list[charts.CostPoint]:
    """Rules with a mean score. The interval is that of the difference to the reference, around the score."""
    against = {c.candidate: c for c in facts.all_comparisons() if c.baseline == facts.compared_with}
    points = []
    for index, (rule, cost) in enumerate(costs.items()):
        mean = facts.measured().get(rule, {}).get(MEAN)
        if mean is None:
            continue
        low, high = _ends(against.get(rule), mean)
        points.append(
            charts.CostPoint(rule, mean, low, high, cost.parameters, cost.operations_per_token, index)
        )
    return points


def _ends(comparison: Comparison | None, score: float) -> tuple[float | None, float | None]:
    mean = comparison.mean if comparison else None
    if mean is None or mean.difference is None or mean.low is None or mean.high is None:
        return None, None
    return score + mean.low - mean.difference, score + mean.high - mean.difference


def _spoken(point: charts.CostPoint, name: str, value: float | None, words: Wording) -> str:
    ends = numbers.interval(point.low, point.high, "", sign=False)
    score = f"{words.score(point.score)} {ends}".strip()
    cost = numbers.count(value or 0)
    return words.text(f"figure.cost_spoken_{name}", rule=point.rule, cost=cost, score=score)


# More parameters than the other


def _surplus(surplus: Surplus, facts: Facts, words: Wording) -> Iterator[Block]:
    """By how much, and whether the gain stands against the other made as large."""
    named = {
        "rule": code(surplus.candidate),
        "baseline": code(surplus.baseline),
        "extra": numbers.count(surplus.extra),
        "share": f"{100 * surplus.share:.2g}",
        "width": surplus.width,
        "command": code(surplus.command),
    }
    if surplus.comparison is not None:
        yield Paragraph(words.inline("equal.measured", **named))
        yield difference_table(surplus.comparison, facts, words)
    elif surplus.share < NOTICEABLE:
        yield Paragraph(words.inline("equal.little", **named), "muted")
    else:
        key = "equal.missing" if surplus.width is not None else "equal.unknown"
        yield Paragraph(words.inline(key, **named))
