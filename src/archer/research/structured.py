"""The default researcher: a search over slots, guided by what the tables say. No key, no torch, no luck
hidden.

One proposal: all single changes to the known rules are listed, what was tried is left out, a Gaussian process
per task says what each would score, and the change is taken whose chance to beat the reference on all six
tasks is best. Every third proposal starts from the best rule of one task instead, the tasks taking turns, so
that the search does not settle on one kind of rule.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from archer.judge.ceiling import MARGIN as NO_ROOM
from archer.ledger.records import TASKS, Prediction, ProposalRecord, VerdictRecord
from archer.research import words
from archer.research.context import protocols
from archer.research.researcher import Context, NothingLeftError, proposal_id, with_verdict
from archer.research.space import Change, Composition, Space, composition_key
from archer.research.surrogate import Point, TaskSurrogate, fit, stretch

Array = NDArray[np.float64]

Z90 = 1.6448536269514722
MAD_REACH = {"Compress": 3 / 11, "Memorize": 0.0}
"""Share of mad-lab's settings longer than 32 tokens where it is not 1 (Compress: 8 of its 11 are at length
32)."""

MARGIN = 0.1
"""What counts as beating the reference, on the stretched scale: about 0.025 at a score of one half."""

PARENTS = 24
"""How many rules are taken as parents at most."""

ELITE_EVERY = 3
EXPLORATION = 0.1
"""Standard deviation of the seeded draw that is added to a candidate's log probability."""

REPEATED, WAITING = 1.4, 1.5
"""Prices, in log probability: of a combination of changes tried before with other constants (times the
logarithm
of one more than how often), and of a kind of change that waits for its verdict."""

REJECTIONS = 2
"""A kind of change that was rejected this often and never accepted is not proposed again."""


@dataclass(frozen=True)
class Outlook:
    """What the surrogate expects of candidates, [candidates, tasks], on its stretched scale.

    mean, deviation: of candidate minus reference. aim: what a candidate must exceed, per task.
    """

    mean: Array
    deviation: Array
    aim: Array

    @property
    def chance(self) -> Array:
        """Log probability to reach the aim, per task: a change that does nothing has little."""
        return _log_normal_cdf((self.mean - self.aim) / self.deviation)


class StructuredResearcher:
    """Search over slots; its answers depend on the context alone."""

    name = "structured"

    def __init__(self) -> None:
        self._learned: list[tuple[VerdictRecord, ProposalRecord]] = []

    def learn(self, verdict: VerdictRecord, proposal: ProposalRecord) -> None:
        """Remember a verdict until a context brings it."""
        self._learned.append((verdict, proposal))

    def propose(self, context: Context) -> ProposalRecord:
        """The most promising change not yet tried. Raises NothingLeftError where everything was."""
        for verdict, proposal in self._learned:
            context = with_verdict(context, verdict, proposal)
        space = Space(context.sources, context.base)
        surrogates = fit_tasks(context, space)
        candidates = untried(context, space, parents(context, space, surrogates))
        change = choose(context, space, surrogates, candidates)
        return write_proposal(context, space, surrogates, change, self.name)


def fit_tasks(context: Context, space: Space) -> dict[str, TaskSurrogate]:
    """One surrogate per task, from history and ledger together."""
    return {task: fit(points, reached(context, task)) for task, points in points_of(context, space).items()}


def points_of(context: Context, space: Space) -> dict[str, tuple[Point, ...]]:
    """What history and ledger measured of rules that the space knows, per task."""
    protocol = protocols(context)
    points: dict[str, dict[tuple[object, ...], Point]] = {task: {} for task in TASKS}
    for m in (*context.history, *context.measured):
        if m.score is None or m.rule not in space.rules or m.task not in points:
            continue
        sd = (m.high - m.low) / (2 * 1.96) if m.low is not None and m.high is not None else None
        key = (m.rule, protocol[m.source], m.score)
        points[m.task][key] = Point(space.composition(m.rule), protocol[m.source], m.score, sd)
    return {task: tuple(found.values()) for task, found in points.items()}


def reached(context: Context, task: str) -> dict[str, float]:
    """Share of a task's settings longer than a chunk, by source: there a change of the state can show."""
    mad = MAD_REACH.get(task, 1.0)
    shares = dict.fromkeys(protocols(context).values(), mad)
    lengths = [setting.length for setting in context.settings if setting.task == task]
    if lengths:
        shares[context.preset] = sum(length > context.chunk_size for length in lengths) / len(lengths)
    return shares | {context.preset: shares.get(context.preset, mad)}


def parents(context: Context, space: Space, surrogates: dict[str, TaskSurrogate]) -> tuple[str, ...]:
    """The rules worth changing: base, reference, each task's best, and the best on all six."""
    names = tuple(n for n in space.rules if not any("step" in r.functions for r in space.line(n)))
    look = outlook(context, space, surrogates, [space.composition(name) for name in names])
    ranked = [names[i] for i in np.argsort(-look.chance.sum(1), kind="stable")]
    best = [names[_best_bound(look, task)] for task in TASKS]
    fixed = [name for name in (context.reference, context.base) if name in names]
    return tuple(dict.fromkeys((*ranked[: PARENTS - 8], *best, *fixed)))


def untried(context: Context, space: Space, parent_names: tuple[str, ...]) -> tuple[Change, ...]:
    """Single changes whose composition nobody has tried, without kinds that keep being rejected."""
    tried, rejected, accepted = set(), {}, set()
    refused = {rejection.proposal for rejection in context.rejections}
    for proposal in context.proposals:
        if proposal.parent not in space.rules:
            continue
        composition = space.describe(proposal.source, proposal.rule)
        tried.add(composition_key(composition))
        kinds = {(c.slot, c.label) for c in composition if c not in space.composition(proposal.parent)}
        for kind in kinds:
            if proposal.id in refused:
                rejected[kind] = rejected.get(kind, 0) + 1
            else:
                accepted.add(kind)
    hopeless = {kind for kind, count in rejected.items() if count >= REJECTIONS} - accepted
    changes = tuple(
        change
        for change in space.changes(parent_names)
        if change.key not in tried
        and can_show(context, change)
        and not any((c.slot, c.label) in hopeless for c in change.composition)
    )
    if not changes:
        raise NothingLeftError(
            f"every single change of {len(parent_names)} rules was tried; give a rule of your own "
            "(archer new NAME) or a language model (--model provider:name) a turn"
        )
    return changes


def can_show(context: Context, change: Change) -> bool:
    """Whether any setting of the preset is long enough for the change to compute anything else."""
    new = next(c for c in change.composition if c.label == change.label)
    return not new.reads_state or any(reached(context, task)[context.preset] > 0 for task in TASKS)


def outlook(
    context: Context, space: Space, surrogates: dict[str, TaskSurrogate], compositions: list[Composition]
) -> Outlook:
    """Candidates against the reference, as this preset would measure them."""
    reference = space.composition(context.reference)
    means, deviations = [], []
    for task in TASKS:
        mean, deviation = surrogates[task].against(compositions, reference, context.preset)
        means.append(mean)
        noise = surrogates[task].noise / 2  # a difference that seeds would have to find
        deviations.append(_widening(context, task) * np.sqrt(deviation**2 + noise**2))
    return Outlook(np.stack(means, 1), np.stack(deviations, 1), aims(context))


def aims(context: Context) -> Array:
    """By how much the reference is to be beaten on each task, on the stretched scale.

    Where it leaves no room (see `archer.judge.ceiling`) nobody can be better: it is enough to lose no more
    than the judge's margin there.
    """
    known = [context.score(context.reference, task) for task in TASKS]
    return np.array([_aim(None if found is None else found.score) for found in known])


def _aim(reference: float | None) -> float:
    if reference is None or reference < 1 - NO_ROOM:
        return MARGIN
    return float(stretch(reference - NO_ROOM) - stretch(reference))


def _widening(context: Context, task: str) -> float:
    """By what factor past intervals were too narrow, on the task or on all together."""
    rows = [r for r in context.track_record if r.researcher == "structured" and r.task in (task, "All")]
    if not rows:
        return 1.0
    from archer.judge.predictions import widening

    return max(widening(row.ratios) for row in rows)


def choose(
    context: Context, space: Space, surrogates: dict[str, TaskSurrogate], candidates: tuple[Change, ...]
) -> Change:
    """The candidate with the best chance on all six; every third time, the best child of one task's elite."""
    look = outlook(context, space, surrogates, [change.composition for change in candidates])
    names = tuple(dict.fromkeys(change.parent for change in candidates))
    homes = outlook(context, space, surrogates, [space.composition(name) for name in names])
    number = len(context.proposals)
    task = elite_turn(number, context.seed)
    home = None if task is None else names[_best_bound(homes, task)]
    children = np.array([home is None or change.parent == home for change in candidates])
    value = promise(look, context.seed, number) - _crowding(context, space, candidates)
    return candidates[int(np.argmax(np.where(children, value, -np.inf)))]


def promise(look: Outlook, seed: int, number: int) -> Array:
    """What a candidate is worth trying as proposal `number`: its log probability to beat the reference on all
    six tasks, as if they were independent, plus a seeded draw."""
    draw = np.random.default_rng([seed, number]).normal(0, EXPLORATION, len(look.mean))
    return look.chance.sum(1) + draw


def elite_turn(number: int, seed: int) -> str | None:
    """The task whose best rule is to be the parent of proposal `number`; None where all six count."""
    if number % ELITE_EVERY != ELITE_EVERY - 1:
        return None
    return TASKS[(number // ELITE_EVERY + seed) % len(TASKS)]


def _best_bound(look: Outlook, task: str) -> int:
    """Who has the best lower bound on a task."""
    column = TASKS.index(task)
    return int(np.argmax(look.mean[:, column] - Z90 * look.deviation[:, column]))


def _crowding(context: Context, space: Space, candidates: tuple[Change, ...]) -> Array:
    """The price of doing again what was done or is under way: near copies teach little."""
    decided = {v.proposal for v in context.verdicts} | {r.proposal for r in context.rejections}
    tried: Counter[tuple[str, ...]] = Counter()
    waiting: Counter[tuple[str, str]] = Counter()
    for proposal in context.proposals:
        if proposal.parent not in space.rules:
            continue
        composition = space.describe(proposal.source, proposal.rule)
        tried[labels(composition)] += 1
        if proposal.id not in decided:
            waiting.update((choice.slot, choice.label) for choice in composition)
    again = np.array([tried[labels(change.composition)] for change in candidates], dtype=float)
    return again_price(again) + WAITING * np.array([waiting[_kind(c)] for c in candidates], dtype=float)


def labels(composition: Composition) -> tuple[str, ...]:
    """What a composition changes, its constants aside."""
    return tuple(f"{choice.slot}={choice.label}" for choice in composition)


def again_price(count: Array) -> Array:
    """The price of a combination tried `count` times before with other constants."""
    return REPEATED * np.log1p(count)


def _kind(change: Change) -> tuple[str, str]:
    return next((c.slot, c.label) for c in change.composition if c.label == change.label)


def predict(
    context: Context, surrogates: dict[str, TaskSurrogate], composition: Composition, researcher: str
) -> tuple[Prediction, ...]:
    """Six predictions with 90% intervals, as wide as the track record asks for."""
    plain = []
    for task in TASKS:
        belief = surrogates[task].believe([composition], context.preset)
        plain.append(Prediction(task, *(round(x, 4) for x in belief.interval(0, Z90))))
    if not context.track_record:
        return tuple(plain)
    from archer.judge.predictions import widen

    return widen(plain, context.track_record, researcher)


def write_proposal(
    context: Context, space: Space, surrogates: dict[str, TaskSurrogate], change: Change, researcher: str
) -> ProposalRecord:
    """A change as a proposal, with everything that it rests on in words."""
    source = space.write(change)
    record = ProposalRecord(
        id=proposal_id(researcher, source, context),
        rule=change.name,
        parent=change.parent,
        slots=(change.slot,),
        source=source,
        reason="",
        predictions=predict(context, surrogates, change.composition, researcher),
        researcher=researcher,
        created_at=context.now,
        cites=change.template.cards if change.template else (),
    )
    facts = words.Facts(context, space, change, record.predictions)
    return replace(
        record,
        reason=words.reason(facts),
        insights=words.insights(facts),
        issue=words.issue(facts),
        reasoning=words.reasoning(facts),
        per_task=words.per_task(facts),
        lessons=words.lessons(facts),
    )


def _log_normal_cdf(z: Array) -> Array:
    from scipy.special import log_ndtr

    return log_ndtr(z)
