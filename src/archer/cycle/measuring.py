"""What a cycle measures: rules beside each other, their seeds all at once or until decided, winners again.

Everything that is decided here follows from the runs in the ledger alone, so that an interrupted call takes
the same decisions again and trains only what is missing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

from archer.cycle.plan import runs_of
from archer.errors import UserError
from archer.fleet.run import Recipe, Run, Subject
from archer.ledger.records import TASKS, Comparison, ConfirmationRecord, CycleRecord, RunRecord

if TYPE_CHECKING:
    from archer.cycle.laboratory import Laboratory
    from archer.cycle.reach import Reach
    from archer.judge import Pair

FRESH = 1000
"""Winners of cycle n are confirmed with the seeds 1000 n, 1000 n + 1, …: no run that chose anything has them,
and no two cycles share them."""

FEWEST_FRESH = 2
"""With a single seed the noise of the winner itself would not be seen."""


@dataclass(frozen=True)
class Judging:
    """How a cycle comes to its words.

    until_decided: seeds are added where the verdict is open, at most so many; None: the preset's seeds, all
    at once. confirm: whether winners are trained again with fresh seeds; None: where the preset ranks.
    """

    until_decided: int | None = None
    confirm: bool | None = None

    def __post_init__(self) -> None:
        if self.until_decided is not None and not 1 <= self.until_decided < FRESH:
            raise UserError(
                f"at most {self.until_decided} seeds until decided: expected 1 to {FRESH - 1}; 8 is usual"
            )

    @property
    def asked(self) -> dict[str, Any]:
        """What differs from the default, for a cycle's settings: the same words continue the same cycle."""
        return {name: value for name, value in asdict(self).items() if value is not None}


@dataclass(frozen=True)
class Company:
    """Rules that are trained beside each other, by name.

    same: a rule to another of the company and the settings in which the two are one function. There the rule
    is not trained: the other's runs stand in for its own.
    """

    lab: Laboratory
    subjects: Mapping[str, Subject]
    recipe: Recipe
    same: Mapping[str, tuple[str, frozenset[str]]]

    def train(self, seeds: Iterable[int], wanted: Mapping[str, Sequence[str]]) -> list[RunRecord]:
        """Records of these rules on their tasks, trained where the ledger lacks them, stand-ins included.

        Raises TimeIsUp where the budget of time ended before the training.
        """
        records = self.lab.train(self.planned(seeds, wanted))
        stand_ins = [
            replace(one, rule=rule, rule_hash=self.subjects[rule].hash, key=f"{one.key}=")
            for (rule, name), origin in self._places(wanted).items()
            for one in records
            if rule != origin and (one.rule, one.setting) == (origin, name)
        ]
        return [*records, *stand_ins]

    def planned(self, seeds: Iterable[int], wanted: Mapping[str, Sequence[str]]) -> list[Run]:
        """What is trained for these rules on their tasks."""
        sources = {(origin, name) for (_, name), origin in self._places(wanted).items()}
        settings = self.lab.preset.settings
        trained = {rule: [s for s in settings if (rule, s.name) in sources] for rule in self.subjects}
        return [
            run
            for rule, where in trained.items()
            for run in runs_of(self.subjects[rule], self.lab.preset, self.recipe, where, seeds)
        ]

    def others(self, cycle: CycleRecord) -> list[RunRecord]:
        """The runs of all other rules in earlier cycles under this preset, and of those that the ledger had
        before its first (`archer.ledger.import_runs`): they say how much a score moves when nothing changes.
        The newest version of each rule counts."""
        cycles = self.lab.ledger.cycles()
        known = {key for one in cycles if one.id < cycle.id for key in one.run_keys}
        began = min(one.started_at for one in cycles)  # ISO 8601 in UTC: sorts as text
        runs = [
            run
            for run in self.lab.ledger.runs(preset=self.lab.preset.name)
            if (run.key in known or run.finished_at < began) and run.rule not in self.subjects
        ]
        newest = {run.rule: run.rule_hash for run in sorted(runs, key=lambda run: run.finished_at)}
        return [run for run in runs if newest[run.rule] == run.rule_hash]

    def _places(self, wanted: Mapping[str, Sequence[str]]) -> dict[tuple[str, str], str]:
        """Each rule and setting to the rule that is trained for it there."""
        return {
            (rule, setting.name): self._origin(rule, setting.name)
            for rule, tasks in wanted.items()
            for setting in self.lab.preset.settings
            if setting.task in tasks
        }

    def _origin(self, rule: str, setting: str) -> str:
        """The rule that is trained where this one is wanted."""
        other, settings = self.same.get(rule, (rule, frozenset()))
        return other if setting in settings else rule


def gather(
    lab: Laboratory, subjects: Sequence[Subject], recipe: Recipe, stood_for: str | None = None
) -> tuple[Company, Reach]:
    """The company of these subjects, and in which settings any of them are one function.

    stood_for: a rule that is not trained where it computes what its parent computes. The others always are.
    """
    from archer.cycle.reach import Reach
    from archer.cycle.training import run_record
    from archer.fleet.launch import Crash

    runs = [run for one in subjects for run in runs_of(one, lab.preset, recipe, seeds=(0,))]
    reach = Reach(lab.ledger, [run_record(run, Crash(run.key, ""), lab.preset.name) for run in runs])
    names = {subject.name: subject for subject in subjects}
    parent = reach.parent(stood_for) if stood_for else None
    same = {}
    if stood_for and parent in names and parent != stood_for:
        same[stood_for] = (parent, reach.unreached(stood_for, parent))
    return Company(lab, names, recipe, same), reach


def settle(
    company: Company, pairs: Sequence[Pair], seeds: Sequence[int], cycle: CycleRecord
) -> tuple[list[RunRecord], tuple[Comparison, ...]]:
    """The runs of a company and one comparison for each pair: all seeds at once, or until decided.

    What other rules taught of the noise in earlier cycles counts, as it does for `archer compare`, and
    nothing later, so that a cycle that is taken up again says what it would have said.
    Until decided, rules that are in no pair are trained with the first look's seeds alone.
    """
    from archer.judge import UntilDecided, compare, decide_together

    lab, everyone = company.lab, dict.fromkeys(company.subjects, TASKS)
    preset, records, others = lab.preset.name, list[RunRecord](), company.others(cycle)
    if lab.judging.until_decided is None:
        records = company.train(seeds, everyone)
        return records, tuple(
            compare(
                [*records, *others],
                one.candidate,
                one.baseline,
                preset=preset,
                exact_settings=one.exact_settings,
            )
            for one in pairs
        )

    def measure(following: tuple[int, ...], wanted: Mapping[str, tuple[str, ...]]) -> list[RunRecord]:
        if records:
            lab.watcher.phase("train", _still_open(following, wanted))
        new = company.train(following, wanted if records else {**everyone, **wanted})
        records.extend(new)
        return new

    policy = UntilDecided.up_to(lab.judging.until_decided)
    states = decide_together(measure, pairs, preset=preset, policy=policy, seeds=seeds, runs=others)
    return records, tuple(state.comparison for state in states if state.comparison is not None)


def confirm_win(
    company: Company, cycle: CycleRecord, pair: Pair, won: Comparison, records: Sequence[RunRecord]
) -> ConfirmationRecord | None:
    """A winner and the rule that it beat, trained again with as many fresh seeds as it won with.

    None where nothing was won, or where winners are not to be confirmed.
    """
    from archer.judge import claim_of, confirm

    claim = claim_of(won)
    if claim is None or not company.lab.confirms:
        return None
    count = max(FEWEST_FRESH, *(task.seeds for task in won.tasks))
    fresh = range(FRESH * int(cycle.id), FRESH * int(cycle.id) + count)
    company.lab.watcher.phase("confirm", f"{pair.candidate} and {pair.baseline} again, {count} fresh seeds")
    again = company.train(fresh, dict.fromkeys((pair.candidate, pair.baseline), TASKS))
    seen = {one.seed for one in records}
    found = confirm(
        [*records, *again, *company.others(cycle)], pair.candidate, pair.baseline,
        preset=company.lab.preset.name, seen_seeds=seen, claim=claim, fresh=count,
        exact_settings=pair.exact_settings,
    )  # fmt: skip
    if found.comparison is None:
        raise AssertionError("the fresh seeds were trained")
    keys = tuple(one.key for one in again if not one.key.endswith("="))
    return ConfirmationRecord(
        claim, found.status == "confirmed", found.seeds, won.mean, found.comparison, keys
    )


def _still_open(seeds: Sequence[int], wanted: Mapping[str, Sequence[str]]) -> str:
    """What is trained at a further look, and why."""
    tasks = ", ".join(task for task in TASKS if any(task in open_tasks for open_tasks in wanted.values()))
    named = f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))}"
    return f"still open on {tasks}: {named} of {', '.join(wanted)}"
