"""Training what the ledger lacks.

Data first, then contained training processes; every outcome is kept at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from archer.cycle.contained import ContainedProcess
from archer.cycle.project import Project, now, packages, revision
from archer.cycle.remaining import Remaining
from archer.cycle.watch import Watcher
from archer.errors import UserError
from archer.fleet.devices import available_devices, processes_per_device, threads_for
from archer.fleet.groups import grouped
from archer.fleet.launch import Crash, launch
from archer.fleet.process import PlainProcess, Plan, Process, Start
from archer.fleet.race import Race
from archer.fleet.run import Outcome, Run
from archer.fleet.standby import Standby
from archer.ledger import Ledger
from archer.ledger.records import CurvePoint, RuleSource, RunRecord
from archer.mad import Setting
from archer.mad.store import load

DATA, GENERATED, PUBLISHED = "data", "generated", "published"
"""The file in a project's folder for training that says on which data its runs are trained; what it says."""

SPLITS: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")


@dataclass(frozen=True)
class Resources:
    """What training may use. But for data_dir none of it changes the result of a run that finishes.

    device: None for all GPUs, or the CPU where there is none. data_dir: mad-lab's published data instead of
    generated; a project's runs are all on one of the two (`check_data`). budget_seconds: stop (and
    checkpoint) after so long; the rest is trained by the next call. walls: contain the training processes.
    race: drop the grid points that lose clearly (see `archer.fleet.race`); they are trained to their end by a
    call without.
    """

    device: str | None = None
    data_dir: Path | None = None
    budget_seconds: float | None = None
    walls: bool = True
    largest: int | None = None
    race: bool = False


def train_missing(
    ledger: Ledger, project: Project, runs: Sequence[Run], preset: str, resources: Resources,
    watcher: Watcher, standby: Standby | None = None,
) -> tuple[RunRecord, ...]:  # fmt: skip
    """Trains the runs that the ledger does not hold, and returns the records of all (crashed ones included).

    standby: processes that may stand by for these very resources (`training_plan`); where GPUs train, those
    that do not yet get ready while data are drawn. Raises TimeIsUp where the budget left some over.
    """
    wanted = {run.key: run for run in runs}
    missing = _missing(ledger, wanted.values(), resources.race)
    watcher.training(len(wanted), len(wanted) - len(missing))
    if missing:
        plan = training_plan(project, resources)
        stand_by(standby, plan, most=len(grouped(missing)))
        (project.training / DATA).write_text(f"{_data(resources)}\n", encoding="utf-8")
        _keep_sources(ledger, missing)
        _prepare_data(missing, resources.data_dir)
        remaining = Remaining(missing)

        def heard(event: dict[str, Any]) -> None:
            watcher.event(event)
            if (seconds := remaining.after(event)) is not None:
                watcher.left(seconds)

        trained = launch(missing, plan, start=starter(resources), report=heard, standby=standby)
        with closing(trained) as outcomes:
            for outcome in outcomes:
                record = run_record(wanted[outcome.key], outcome, preset)
                ledger.add_run(record)
                remaining.is_over(outcome.key)
                watcher.finished(record)
    records = tuple(
        record
        for record in _under(preset, ledger, list(wanted))
        if resources.race or record.status != "dropped"
    )
    if len(records) < len(wanted):
        raise TimeIsUp(records, len(wanted))
    return records


def _under(preset: str, ledger: Ledger, keys: list[str]) -> list[RunRecord]:
    """The records of these runs under this preset. What another preset trained first, in a setting that both
    have, is kept once more under this one: tables and comparisons are of one preset each."""
    found = [one.under(preset) for one in ledger.runs(keys=keys)]
    shared = [one for one in found if one.key != one.trained_as]
    if shared:
        ledger.add_runs(shared)
    return found


def _missing(ledger: Ledger, runs: Iterable[Run], race: bool) -> list[Run]:
    """Runs that the ledger has no result of; what a race dropped is over for a race."""
    dropped = {record.key for record in ledger.runs(status="dropped")} if race else set()
    return [run for run in runs if not ledger.has_run(run.key) and run.key not in dropped]


class TimeIsUp(Exception):  # noqa: N818  nothing went wrong
    """The budget of time ended before the training. records: of the runs that are over."""

    def __init__(self, records: tuple[RunRecord, ...], wanted: int) -> None:
        super().__init__(
            f"the time is up: {len(records)} of {wanted} runs are over; the same command continues"
        )
        self.records = records


def check_resources(resources: Resources, settings: Iterable[Setting]) -> None:
    """Raises UserError where the device or the published data cannot be used."""
    available_devices(resources.device)
    if resources.data_dir is not None:
        for setting in settings:
            for split in SPLITS:
                load(setting, 0, split, resources.data_dir)


def check_data(project: Project, ledger: Ledger, resources: Resources) -> None:
    """Raises UserError where the project's runs were trained on other data: neither their keys nor its
    checkpoints tell generated from published data, so that one would count as the other."""
    asked, kept = _data(resources), project.training / DATA
    there = kept.read_text(encoding="utf-8").strip() if kept.exists() else ""
    if not there and resources.data_dir is not None and ledger.runs():
        there = GENERATED
    if there and there != asked:
        raise UserError(
            f"{project.folder} holds runs trained on {there} data, and {asked} data were asked for: "
            f"{'leave out' if resources.data_dir else 'give'} --data, or name another --project"
        )


def _data(resources: Resources) -> str:
    return GENERATED if resources.data_dir is None else PUBLISHED


def check_race(resources: Resources, preset: str) -> None:
    """Raises UserError where racing was asked for and the preset's runs must all be trained to their end."""
    if resources.race and preset.partition("-")[0] == "full":
        raise UserError(
            "--race drops grid points early, and the preset full is mad-lab's whole protocol: "
            "leave out --race, or take --preset baseline"
        )


def run_record(run: Run, outcome: Outcome | Crash, preset: str) -> RunRecord:
    """A run and what became of it, as the ledger keeps it."""
    common: dict[str, Any] = {
        "key": run.key, "rule": run.subject.name, "rule_hash": run.subject.hash, "task": run.setting.task,
        "setting": run.setting.name, "learning_rate": run.learning_rate, "weight_decay": run.weight_decay,
        "seed": run.seed, "preset": preset, "revision": revision(), "finished_at": now(),
        "passed": {"preset": preset, "arguments": dict(run.subject.arguments)},
        "effective": {"recipe": asdict(run.recipe), "setting": asdict(run.setting)}, "packages": packages(),
    }  # fmt: skip
    if isinstance(outcome, Crash):
        return RunRecord(
            **common, status="crashed", mad=None, held_out=None, validation=None, epochs=0, parameters=0,
            wall_seconds=0.0, device="", message=outcome.message,
        )  # fmt: skip
    return RunRecord(
        **common, status=outcome.status, mad=outcome.mad, held_out=outcome.held_out,
        validation=outcome.validation, epochs=outcome.epochs, parameters=outcome.parameters,
        wall_seconds=round(outcome.wall_seconds, 3), device=outcome.device, message=outcome.message,
        curve=tuple(CurvePoint(**asdict(point)) for point in outcome.curve),
    )  # fmt: skip


def _keep_sources(ledger: Ledger, runs: Iterable[Run]) -> None:
    from archer.rules import get_rule, rule_names

    for subject in {run.subject.hash: run.subject for run in runs}.values():
        parent = get_rule(subject.name).parent if subject.name in rule_names() else None
        ledger.add_source(RuleSource(subject.hash, subject.name, parent or "", subject.source))


def _prepare_data(runs: Iterable[Run], data_dir: Path | None) -> None:
    """Every set is in the cache before training starts: the training processes only read."""
    for setting, seed in dict.fromkeys((run.setting, run.seed) for run in runs):
        for split in SPLITS:
            load(setting, seed, split, data_dir)


def training_plan(project: Project, resources: Resources) -> Plan:
    """Where and how a project trains with these resources."""
    project.training.mkdir(parents=True, exist_ok=True)
    devices = available_devices(resources.device)
    each = processes_per_device(devices)
    return Plan(
        devices, project.training.resolve(), threads_for(each * len(devices)), resources.budget_seconds,
        data_dir=resources.data_dir, largest=resources.largest, processes_per_device=each,
        race=Race() if resources.race else None,
    )  # fmt: skip


def stand_by(standby: Standby | None, plan: Plan, most: int | None = None) -> None:
    """Has processes get ready in the background, where GPUs train: a processor's cores have other work."""
    if standby and plan.devices[0] != "cpu":
        standby.ready(plan, most)


def starter(resources: Resources) -> Start:
    """What starts a training process: behind walls, unless they are left out."""
    if not resources.walls:
        return PlainProcess
    readable = [resources.data_dir] if resources.data_dir else []

    def start(command: list[str], scratch: Path, gpu: bool) -> Process:
        return ContainedProcess(command, scratch, gpu, readable)

    return start
