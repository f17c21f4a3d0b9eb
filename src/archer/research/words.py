"""Sentences from facts: why a change, what was seen, what is expected. Every number is read from the
context."""

from __future__ import annotations

from dataclasses import dataclass

from archer.figures import signed
from archer.ledger.records import Prediction
from archer.research.researcher import Context, Measurement
from archer.research.space import Change, Space

NOTABLE = 0.02
"""A difference in a table that is worth a sentence. The judge, not this, says what is noise."""


@dataclass(frozen=True)
class Facts:
    """What the sentences are made from."""

    context: Context
    space: Space
    change: Change
    predictions: tuple[Prediction, ...]

    @property
    def family(self) -> str:
        """The family of the new slot."""
        return next(c.family for c in self.change.composition if c.label == self.change.label)

    @property
    def state_only(self) -> bool:
        """Whether the change shows only where a sequence is longer than a chunk."""
        return next(c.reads_state for c in self.change.composition if c.label == self.change.label)


@dataclass(frozen=True)
class Seen:
    """A rule's score and its base's, from the same source."""

    rule: str
    task: str
    score: float
    base: float

    @property
    def gain(self) -> float:
        """The rule's score minus its base's."""
        return self.score - self.base

    @property
    def on_task(self) -> str:
        """The task with what was gained there: Memorize (−0.043)."""
        return f"{self.task} ({signed(self.gain, '')})"

    def __str__(self) -> str:
        return f"{self.rule} {self.score:.3f} against {self.base:.3f} ({signed(self.gain, '')})"


def differences(context: Context) -> tuple[Seen, ...]:
    """Every measured rule against the base, this preset's measurements first, each rule and task once."""
    own = tuple(m for m in context.measured if m.source == context.preset)
    bases = {(m.source, m.task): m.score for m in (*own, *context.history) if m.rule == context.base}
    found: dict[tuple[str, str], Seen] = {}
    for m in (*own, *context.history):
        base = bases.get((m.source, m.task))
        if m.score is not None and base is not None and m.rule != context.base:
            found.setdefault((m.rule, m.task), Seen(m.rule, m.task, m.score, base))
    return tuple(found.values())


def insights(facts: Facts) -> str:
    """Where the reference is ahead, and the largest gain and loss of what was tried."""
    context = facts.context
    seen = differences(context)
    if not seen:
        return "Nothing has been measured yet, so the choice rests on the structure of the rules alone."
    ahead = [s for s in seen if s.rule == context.reference]
    parts = []
    if ahead:
        up = [s.on_task for s in ahead if s.gain > 0]
        down = [s.on_task for s in ahead if s.gain <= 0]
        text = f"{context.reference} is ahead of {context.base} on {_listed(up) or 'no task'}"
        parts.append(text + (f" and behind on {_listed(down)}." if down else "."))
    others = [s for s in seen if s.rule != context.reference]
    if others:
        best, worst = max(others, key=lambda s: s.gain), min(others, key=lambda s: s.gain)
        parts.append(f"The largest gain among the variants is {best.task}: {best}.")
        parts.append(f"The largest loss is {worst.task}: {worst}.")
    return " ".join(parts)


def issue(facts: Facts) -> str:
    """What is wrong, and where in the parent's code."""
    slot, parent = facts.change.slot, facts.change.parent
    home = next((rule for rule in facts.space.line(parent) if slot in rule.functions), None)
    code = home.functions[slot].strip().splitlines()[-1].strip() if home else "nothing"
    origin = f" (inherited from {home.name})" if home and home.name != parent else ""
    place = f"In {parent} the slot `{slot}`{origin} ends in `{code}`."
    if facts.change.template is None:
        donor = facts.change.donor
        return f"{place} {donor} fills this slot differently, and the two were never measured together."
    if home is not None and home.name != facts.space.base:
        return (
            f"{place} Of the plain slot, from which this change starts again: {facts.change.template.issue}."
        )
    return f"{place} There {facts.change.template.issue}."


def reasoning(facts: Facts) -> str:
    """What the change does, what may go wrong, and what its nearest relatives did."""
    template, donor = facts.change.template, facts.change.donor
    parts = [f"{_capital(template.why)}. The risk: {template.risk}."] if template else []
    if donor:
        parts.append(f"The slot is taken from {donor} as it stands.")
    kin = relatives(facts)
    if kin:
        notable = sorted(kin, key=lambda s: -abs(s.gain))[:3]
        parts.append("Nearest relatives in the tables: " + "; ".join(f"{s.task}: {s}" for s in notable) + ".")
    else:
        parts.append(
            f"No measured rule changes `{facts.change.slot}` in this way, so the intervals are wide."
        )
    return " ".join(parts)


def relatives(facts: Facts) -> tuple[Seen, ...]:
    """Measured differences of rules whose same slot is of the same family."""
    slot, family = facts.change.slot, facts.family
    slots = {slot, "beta"} if slot == "prepare" else {slot}
    kin = {
        name
        for name in facts.space.rules
        if any(c.slot in slots and c.family == family for c in facts.space.composition(name))
    }
    return tuple(s for s in differences(facts.context) if s.rule in kin)


def per_task(facts: Facts) -> dict[str, str]:
    """One sentence a task: the prediction, what it compares with, and why."""
    return {p.task: _task_sentence(facts, p) for p in facts.predictions}


def _task_sentence(facts: Facts, prediction: Prediction) -> str:
    context, task = facts.context, prediction.task
    expected = f"Expected {prediction.score:.3f} ({prediction.low:.3f} to {prediction.high:.3f})"
    compared = [_score_text(context.score(name, task)) for name in (facts.change.parent, context.reference)]
    known = [text for text in dict.fromkeys(compared) if text]
    text = (
        f"{expected}; {', '.join(known)}."
        if known
        else f"{expected}; neither parent nor reference is measured."
    )
    return f"{text} {_why(facts, task)}"


def _why(facts: Facts, task: str) -> str:
    lengths = [s.length for s in facts.context.settings if s.task == task]
    short = [length for length in lengths if length <= facts.context.chunk_size]
    if facts.state_only and lengths and len(short) == len(lengths):
        size = facts.context.chunk_size
        return (
            f"All its sequences fit in one chunk of {size}, so the change computes what the parent computes."
        )
    kin = [s for s in relatives(facts) if s.task == task]
    if kin:
        strongest = max(kin, key=lambda s: abs(s.gain))
        verb = "moved" if abs(strongest.gain) >= NOTABLE else "hardly moved"
        return f"Relatives {verb} it: {strongest}."
    if facts.state_only:
        return "Only what passes between chunks changes, so short sequences are spared."
    return "No relative was measured on it; the prior says little change."


def _score_text(measurement: Measurement | None) -> str:
    if measurement is None or measurement.score is None:
        return ""
    return f"{measurement.rule} has {measurement.score:.3f} in {measurement.source}"


def lessons(facts: Facts) -> str:
    """What worked, what failed, what was refused, and what has not been tried."""
    context, parts = facts.context, []
    by_rule: dict[str, list[Seen]] = {}
    for seen in differences(context):
        if seen.rule != context.reference:
            by_rule.setdefault(seen.rule, []).append(seen)
    worked = [max(rows, key=lambda s: s.gain) for rows in by_rule.values()]
    failed = [min(rows, key=lambda s: s.gain) for rows in by_rule.values()]
    good = sorted((s for s in worked if s.gain >= NOTABLE), key=lambda s: -s.gain)[:3]
    bad = sorted((s for s in failed if s.gain <= -NOTABLE), key=lambda s: s.gain)[:3]
    if good:
        parts.append("Worked: " + "; ".join(f"{s.rule} on {s.on_task}" for s in good) + ".")
    if bad:
        parts.append("Failed: " + "; ".join(f"{s.rule} on {s.on_task}" for s in bad) + ".")
    names = {proposal.id: proposal.rule for proposal in context.proposals}
    if context.rejections:
        last = context.rejections[-1]
        parts.append(f"Last refused: {names.get(last.proposal, last.proposal)}, because {last.message}")
    parts.append(f"Not tried before: `{facts.change.slot}` of {facts.change.parent}: {_what(facts.change)}.")
    return " ".join(parts)


def reason(facts: Facts) -> str:
    """The proposal in one or two sentences."""
    change, context = facts.change, facts.context
    ahead, behind = [], []
    for prediction in facts.predictions:
        reference = context.score(context.reference, prediction.task)
        if reference is not None and reference.score is not None and reference.source == context.preset:
            (ahead if prediction.score > reference.score else behind).append(prediction.task)
    text = f"Change `{change.slot}` of {change.parent}: {_what(change)}."
    if ahead or behind:
        text += f" Expected above {context.reference} on {_listed(ahead) or 'no task'}"
        text += f", below on {_listed(behind)}." if behind else "."
    return text


def _what(change: Change) -> str:
    return change.template.title.split(": ", 1)[-1] if change.template else f"the slot of {change.donor}"


def _listed(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else ", ".join(parts[:-1]) + " and " + parts[-1] if parts else ""


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]
