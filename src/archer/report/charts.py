"""The drawings of a note, as Vega-Lite specifications: data and grammar, no drawing.

Colours are CSS variables of the page (`var(--better)`), so that one drawing serves light and dark. Every
panel is WIDTH units wide, which is what a narrow screen shows without shrinking; wide pages put panels side
by side. Each colour also has a shape or a label of its own: nothing is told by colour alone.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from archer.ledger.records import PredictionScore, TaskComparison

WIDTH = 360
NAME_WIDTH = 96
LETTER = 6.1
"""Units that a letter of a label takes, generously: readers' fonts are not those of the drawing library."""
SCHEMA = "https://vega.github.io/schema/vega-lite/v5.json"

COLOUR = {"field": "colour", "type": "nominal", "scale": None}
"""Each value says its own colour."""
DOT = {"type": "point", "filled": True, "opacity": 1}
SHAPES = {"better": "triangle-up", "worse": "triangle-down", "same": "square", "undecided": "circle"}
LINES = ("var(--line-1)", "var(--line-2)", "var(--line-3)", "var(--line-4)", "var(--line-5)", "var(--line-6)")
DASHES = ([1, 0], [6, 3], [2, 2], [8, 2, 2, 2], [4, 4], [1, 3])

CONFIG: Mapping[str, Any] = {
    "font": "system-ui, sans-serif",
    "background": "transparent",
    "view": {"stroke": None},
    "axis": {
        "labelColor": "var(--muted)",
        "titleColor": "var(--muted)",
        "titleFontWeight": "normal",
        "titleFontSize": 11,
        "labelFontSize": 11,
        "gridColor": "var(--grid)",
        "domainColor": "var(--grid)",
        "tickColor": "var(--grid)",
        "labelLimit": 160,
    },
    "axisY": {"labelColor": "var(--ink)", "labelFontSize": 12},
    "text": {"fontSize": 11, "fill": "var(--ink)"},
}


@dataclass(frozen=True)
class Curve:
    """One run's test accuracy: (epoch, accuracy) in order of epochs."""

    rule: str
    points: tuple[tuple[int, float], ...]


def difference_chart(
    lines: Sequence[TaskComparison],
    words: Mapping[str, str],
    title: str,
    name_width: int = NAME_WIDTH,
) -> Mapping[str, Any]:
    """Candidate minus baseline by task: a mark and its interval on one axis with a line at zero.

    words: what each word is called. A task without a difference keeps its row and says so. name_width: room
    for the names, in units of the drawing, whose library measures text with its own fonts.
    """
    values = [_difference_value(line, words) for line in lines]
    ends = [value[key] for value in values for key in ("low", "high", "difference") if value[key] is not None]
    y = _rows(name_width)
    x = {
        "type": "quantitative",
        "axis": {
            "title": title,
            "format": "+.3~f",
            "tickCount": 4,
            "labelOverlap": "greedy",
            "labelExpr": "datum.value === 0 ? '0' : datum.label",
            "labelSeparation": 16,
        },
        "scale": {"domain": _span(ends), "nice": False, "zero": True},
    }
    zero = {
        "mark": {"type": "rule", "color": "var(--ink)", "strokeWidth": 1},
        "encoding": {"x": {"datum": 0}},
    }
    intervals = {
        "transform": [{"filter": "isValid(datum.low) && isValid(datum.high)"}],
        "mark": {"type": "rule", "strokeWidth": 2.5, "strokeCap": "round"},
        "encoding": {
            "y": y,
            "x": {**x, "field": "low"},
            "x2": {"field": "high"},
            "color": COLOUR,
            "description": {"field": "words"},
        },
    }
    layers = [zero, intervals, _marks(x, y, "difference", 70), _labels(x, y, -11)]
    return _chart(values, {"step": 34}, layers)


def prediction_chart(
    scores: Sequence[PredictionScore], words: Mapping[str, str], title: str
) -> Mapping[str, Any]:
    """What was predicted (a tick in its interval) and what was measured (a diamond), by task.

    words: "covered", "missed", "unmeasured".
    """
    values = [_prediction_value(score, words) for score in scores]
    y = _rows(NAME_WIDTH)
    axis = {"title": title, "format": ".1f", "tickCount": 5}
    x = {"type": "quantitative", "axis": axis, "scale": {"domain": [0, 1], "nice": False}}
    intervals = {
        "mark": {"type": "bar", "height": 9, "cornerRadius": 4, "color": "var(--band)"},
        "encoding": {"y": y, "x": {**x, "field": "low"}, "x2": {"field": "high"}},
    }
    middles = {
        "mark": {"type": "tick", "thickness": 2, "size": 15, "color": "var(--ink)"},
        "encoding": {"y": y, "x": {**x, "field": "predicted"}},
    }
    layers = [intervals, middles, _marks(x, y, "measured", 90), _labels(x, y, -12)]
    return _chart(values, {"step": 34}, layers)


def _rows(name_width: int) -> dict[str, Any]:
    """A row for each task, with its name before it."""
    axis = {
        "ticks": False,
        "domain": False,
        "minExtent": name_width,
        "maxExtent": name_width,
        "labelLimit": name_width,
    }
    return {"field": "task", "type": "nominal", "sort": None, "title": None, "axis": axis}


def _marks(x: Mapping[str, Any], y: Mapping[str, Any], field: str, size: int) -> dict[str, Any]:
    """A mark where there is a number, with the shape and the colour of what became of it."""
    return {
        "transform": [{"filter": f"isValid(datum.{field})"}],
        "mark": {**DOT, "size": size},
        "encoding": {
            "y": y,
            "x": {**x, "field": field},
            "color": COLOUR,
            "shape": {"field": "shape", "type": "nominal", "scale": None},
            "description": {"field": "words"},
        },
    }


def _labels(x: Mapping[str, Any], y: Mapping[str, Any], above: int) -> dict[str, Any]:
    """What each mark says, in words over it."""
    return {
        "mark": {"type": "text", "dy": above, "fontSize": 10.5},
        "encoding": {
            "y": y,
            "x": {**x, "field": "label_at"},
            "text": {"field": "label"},
            "color": {**COLOUR, "field": "label_colour"},
        },
    }


def curve_chart(
    curves: Sequence[Curve], order: Sequence[str], titles: tuple[str, str], chance: float | None
) -> Mapping[str, Any]:
    """Accuracy by epoch, a line per run; a rule has one colour and one dash, and its name at its line's end.
    A run that was evaluated once is a dot.

    titles: of the two axes. chance: a thin line where guessing would be.
    """
    values = [
        {
            "epoch": epoch,
            "accuracy": accuracy,
            "rule": curve.rule,
            "run": index,
            "once": len(curve.points) == 1,
            **_pen(order.index(curve.rule)),
        }
        for index, curve in enumerate(curves)
        for epoch, accuracy in curve.points
    ]
    last = max((epoch for curve in curves for epoch, _ in curve.points), default=1)
    x_axis = {"title": titles[0], "values": _ticks(last), "grid": False, "format": "d"}
    x_scale = {"domain": [0, _room_for_names(last, [curve.rule for curve in curves])], "nice": False}
    y_axis = {"title": titles[1], "tickCount": 5, "format": ".1f"}
    here = {
        "x": {"field": "epoch", "type": "quantitative", "axis": x_axis, "scale": x_scale},
        "y": {"field": "accuracy", "type": "quantitative", "axis": y_axis, "scale": {"domain": [0, 1]}},
        "color": COLOUR,
    }
    layers: list[dict[str, Any]] = [
        {
            "mark": {"type": "line", "strokeWidth": 2, "interpolate": "linear"},
            "encoding": {
                **here,
                "detail": {"field": "run", "type": "nominal"},
                "strokeDash": {"field": "dash", "type": "nominal", "scale": None},
            },
        },
        {"transform": [{"filter": "datum.once"}], "mark": {**DOT, "size": 40}, "encoding": here},
        {
            "data": {"values": _line_labels(curves, order)},
            "mark": {"type": "text", "align": "left", "dx": 5, "fontSize": 10.5},
            "encoding": {
                "x": {"field": "epoch", "type": "quantitative"},
                "y": {"field": "accuracy", "type": "quantitative"},
                "text": {"field": "label"},
                "color": COLOUR,
            },
        },
    ]
    if chance is not None:
        layers.insert(0, _chance_layer(chance, last))
    return _chart(values, 190, layers)


@dataclass(frozen=True)
class CostPoint:
    """A rule's mean score with its interval, and what it costs. pen: which colour is its own."""

    rule: str
    score: float
    low: float | None
    high: float | None
    parameters: int | None
    operations: float | None
    pen: int

    def of_parameters(self) -> float | None:
        """Its place on the axis of parameters."""
        return self.parameters

    def of_operations(self) -> float | None:
        """Its place on the axis of operations per token."""
        return self.operations


def cost_chart(
    points: Sequence[CostPoint],
    cost: Callable[[CostPoint], float | None],
    titles: tuple[str, str],
    front: bool,
) -> Mapping[str, Any]:
    """Mean score over a cost: a point, an interval and a name per rule.

    front: join the rules that no other rule beats in both, by their middle scores.
    """
    placed = [(point, cost(point) or 0.0) for point in points]
    low, high = min(value for _, value in placed), max(value for _, value in placed)
    heights = _label_heights(placed)
    values = [
        {
            "cost": value, "score": point.score, "low": point.low, "high": point.high, "label_at": height,
            "label": shortened(point.rule), "words": point.rule, **_pen(point.pen),
        }
        for (point, value), height in zip(placed, heights, strict=True)
    ]  # fmt: skip
    room = max(0.08 * (high - low), 0.02 * high)
    names = max(len(shortened(point.rule)) for point in points) * LETTER / (WIDTH - 60)
    wide = (high - low + 2 * room) / max(0.3, 1 - names)
    x_axis = {"title": titles[0], "tickCount": 4, "format": "~s", "grid": False}
    scale = {"domain": [low - room, low - room + wide], "nice": False}
    x = {"field": "cost", "type": "quantitative", "axis": x_axis, "scale": scale}
    y_axis = {"title": titles[1], "tickCount": 5, "format": ".2f"}
    y = {"type": "quantitative", "axis": y_axis, "scale": {"zero": False, "padding": 14}}
    here = {"x": x, "color": COLOUR}
    layers: list[dict[str, Any]] = [
        {
            "transform": [{"filter": "isValid(datum.low) && isValid(datum.high)"}],
            "mark": {"type": "rule", "strokeWidth": 2, "strokeCap": "round"},
            "encoding": {**here, "y": {**y, "field": "low"}, "y2": {"field": "high"}},
        },
        {
            "mark": {**DOT, "size": 80},
            "encoding": {**here, "y": {**y, "field": "score"}, "description": {"field": "words"}},
        },
        {
            "mark": {"type": "text", "align": "left", "dx": 8},
            "encoding": {**here, "y": {**y, "field": "label_at"}, "text": {"field": "label"}},
        },
    ]
    if front:
        layers.insert(0, _front_layer(placed, x, y))
    return _chart(values, 190, layers)


def _label_heights(placed: Sequence[tuple[CostPoint, float]]) -> list[float]:
    """Names at their points' heights, moved apart where they would overlap."""
    scores = [point.score for point, _ in placed]
    ends = [end for point, _ in placed for end in (point.low, point.high) if end is not None]
    span = max([*scores, *ends]) - min([*scores, *ends]) or 0.1
    return spread(scores, gap=0.085 * span, low=min(scores) - span, high=max(scores) + span)


def pareto_front(placed: Sequence[tuple[CostPoint, float]]) -> list[tuple[CostPoint, float]]:
    """The points that no other beats: none is as cheap and scores more; by cost, the cheapest first."""
    front: list[tuple[CostPoint, float]] = []
    for point, value in sorted(placed, key=lambda one: (one[1], -one[0].score)):
        if not front or point.score > front[-1][0].score:
            front.append((point, value))
    return front


def _front_layer(
    placed: Sequence[tuple[CostPoint, float]], x: Mapping[str, Any], y: Mapping[str, Any]
) -> dict[str, Any]:
    values = [{"cost": value, "score": point.score} for point, value in pareto_front(placed)]
    return {
        "data": {"values": values},
        "mark": {"type": "line", "interpolate": "step-after", "color": "var(--muted)", "strokeDash": [2, 3]},
        "encoding": {"x": x, "y": {**y, "field": "score"}},
    }


def heat_map(
    scores: Mapping[str, Mapping[str, float | None]], against: Mapping[str, float | None]
) -> Mapping[str, Any]:
    """Rules by tasks: the score in each cell, shaded by its difference to the task's score in `against`."""
    values = [
        {
            "rule": rule,
            "task": task,
            "text": "–" if value is None else f"{value:.3f}",
            **_shade(value, against.get(task)),
        }
        for rule, row in scores.items()
        for task, value in row.items()
    ]
    names = 8 * max((len(rule) for rule in scores), default=0)
    axis = {"title": None, "ticks": False, "domain": False}
    x_axis = {**axis, "orient": "top", "labelAngle": 0, "labelPadding": 18}
    x_axis["labelExpr"] = "split(datum.label, ' ')"  # two lines, which grow downwards into the padding
    y_axis = {**axis, "labelLimit": names, "minExtent": names}
    place = {
        "x": {"field": "task", "type": "nominal", "sort": None, "axis": x_axis},
        "y": {"field": "rule", "type": "nominal", "sort": None, "axis": y_axis},
    }
    shade = {"field": "shade", "type": "quantitative", "scale": None}
    layers = [
        {"mark": "rect", "encoding": {**place, "fill": COLOUR, "fillOpacity": shade}},
        {"mark": "text", "encoding": {**place, "text": {"field": "text"}}},
    ]
    return {**_chart(values, {"step": 22}, layers), "width": {"step": 72}, "autosize": "pad"}


def _shade(value: float | None, other: float | None) -> dict[str, Any]:
    """The colour of better or worse, the stronger the larger the difference, up to 0.3."""
    difference = 0.0 if value is None or other is None else value - other
    return {
        "colour": "var(--better)" if difference > 0 else "var(--worse)",
        "shade": round(0.55 * min(1.0, abs(difference) / 0.3), 3),
    }


def _chart(values: Sequence[Mapping[str, Any]], height: Any, layers: Sequence[Any]) -> Mapping[str, Any]:
    return {
        "$schema": SCHEMA,
        "width": WIDTH,
        "height": height,
        "padding": {"left": 2, "top": 2, "bottom": 2, "right": 12},  # for half of the last label
        "autosize": {"type": "fit-x", "contains": "padding"},
        "config": CONFIG,
        "data": {"values": list(values)},
        "layer": list(layers),
    }


def _chance_layer(chance: float, last: int) -> dict[str, Any]:
    """Thin and without dashes, so that it is no rule's line; it ends where the names begin."""
    return {
        "mark": {"type": "rule", "color": "var(--muted)", "strokeWidth": 0.75},
        "encoding": {"y": {"datum": chance}, "x": {"datum": 0}, "x2": {"datum": last}},
    }


def _difference_value(line: TaskComparison, words: Mapping[str, str]) -> dict[str, Any]:
    from archer.report.numbers import interval, signed

    missing = line.difference is None
    label = words["missing"] if missing else f"{signed(line.difference, '')} {words[line.word]}".rstrip()
    return {
        "task": line.task,
        "difference": line.difference,
        "low": line.low,
        "high": line.high,
        "colour": f"var(--{line.word})",
        "shape": SHAPES[line.word],
        "label": label,
        "label_at": 0 if line.difference is None else line.difference,
        "label_colour": "var(--muted)" if missing else f"var(--{line.word})",
        "words": f"{line.task}: {label} {interval(line.low, line.high, '')}".strip(),
    }


def _prediction_value(score: PredictionScore, words: Mapping[str, str]) -> dict[str, Any]:
    state = "unmeasured" if score.measured is None else "covered" if score.covered else "missed"
    colour = {"covered": "var(--better)", "missed": "var(--worse)", "unmeasured": "var(--muted)"}[state]
    number = "" if score.measured is None else f"{score.measured:.3f} "
    label = f"{number}{words[state]}"
    return {
        "task": score.task,
        "predicted": score.predicted,
        "low": score.low,
        "high": score.high,
        "measured": score.measured,
        "colour": colour,
        "label_colour": colour,
        "shape": "diamond" if state == "covered" else "cross",
        "label": label,
        "label_at": min(0.86, max(0.14, score.predicted if score.measured is None else score.measured)),
        "words": f"{score.task}: {label}",
    }


def _span(numbers: Sequence[float]) -> list[float]:
    """Zero and all numbers inside, with room at both ends for the labels; never narrower than 0.02."""
    low, high = min([0.0, *numbers]), max([0.0, *numbers])
    room = max(0.18 * (high - low), 0.01)
    return [low - room, high + room]


def shortened(name: str, length: int = 18) -> str:
    """A name of at most `length` letters: a long one loses its middle."""
    if len(name) <= length:
        return name
    head = (length - 1) // 2
    return f"{name[:head]}…{name[head + 1 - length :]}"


def _room_for_names(last: int, names: Sequence[str]) -> float:
    """Where the epoch axis must end for the names to fit behind the last epoch."""
    longest = max((len(shortened(name)) for name in names), default=0)
    plot, label = WIDTH - 40, LETTER * longest + 8
    return last * plot / (plot - label)


def _ticks(last: int) -> list[int]:
    """At most six whole epochs, 0 and round steps."""
    step = next(step for step in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, last) if last / step <= 5)
    return list(range(0, last + 1, step))


def _pen(index: int) -> dict[str, Any]:
    return {"colour": LINES[index % len(LINES)], "dash": DASHES[index % len(DASHES)]}


def _line_labels(curves: Sequence[Curve], order: Sequence[str]) -> list[dict[str, Any]]:
    """A rule's name at the end of its longest line, moved up or down where names would overlap."""
    ends: dict[str, tuple[int, float]] = {}
    for curve in curves:
        if curve.points and curve.points[-1][0] >= ends.get(curve.rule, (-1, 0.0))[0]:
            ends[curve.rule] = curve.points[-1]
    last = max((epoch for epoch, _ in ends.values()), default=0)
    heights = spread([ends[rule][1] for rule in ends], gap=0.085, low=0.03, high=1.0)
    return [
        {"label": shortened(rule), "epoch": last, "accuracy": height, **_pen(order.index(rule))}
        for rule, height in zip(ends, heights, strict=True)
    ]


def spread(heights: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """The heights, moved to stand at least `gap` apart, within low and high if they fit there."""
    order = sorted(range(len(heights)), key=lambda index: heights[index])
    placed: list[float] = []
    for index in order:
        placed.append(max(heights[index], placed[-1] + gap) if placed else max(heights[index], low))
    ceiling = high
    for position in range(len(placed) - 1, -1, -1):
        placed[position] = min(placed[position], ceiling)
        ceiling = placed[position] - gap
    return [height for _, height in sorted(zip(order, placed, strict=True))]
