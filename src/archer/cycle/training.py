"""Training what the ledger lacks.

Data first, then contained training processes; every outcome is kept at once.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from archer.cycle.project import Project, now, packages, revision
from archer.cycle.watch import Watcher
from archer.fleet.launch import Crash, PlainProcess, Plan, Process, available_devices, cpu_threads, launch
from archer.fleet.run import Outcome, Run
from archer.ledger import Ledger
from archer.ledger.records import CurvePoint, RuleSource, RunRecord
from archer.mad.store import cache_folder, load

FOREVER_SECONDS = 30 * 24 * 3600


@dataclass(frozen=True)
class Resources:
    """What training may use, none of which changes a result.

    device: None for all GPUs, or the CPU where there is none. data_dir: mad-lab's published data instead of
    generated. budget_seconds: stop (and checkpoint) after so long; the rest is trained by the next call.
    walls: contain the training processes.
    """

    device: str | None = None
    data_dir: Path | None = None
    budget_seconds: float | None = None
    walls: bool = True
    largest: int | None = None


def train_missing(
    ledger: Ledger, project: Project, runs: Sequence[Run], preset: str, resources: Resources, watcher: Watcher
) -> tuple[RunRecord, ...]:
    """Trains the runs that the ledger does not hold, and returns the records of all (crashed ones included).

    Runs that the budget left over are not among them.
    """
    wanted = {run.key: run for run in runs}
    missing = [run for run in wanted.values() if not ledger.has_run(run.key)]
    watcher.training(len(wanted), len(wanted) - len(missing))
    if missing:
        _keep_sources(ledger, missing)
        _prepare_data(missing, resources.data_dir)
        plan = _plan(project, resources)
        with closing(launch(missing, plan, start=_starter(resources), report=watcher.event)) as outcomes:
            for outcome in outcomes:
                record = run_record(wanted[outcome.key], outcome, preset)
                ledger.add_run(record)
                watcher.finished(record)
    return ledger.runs(keys=list(wanted))


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
        for split in ("train", "validation", "test"):
            load(setting, seed, split, data_dir)


def _plan(project: Project, resources: Resources) -> Plan:
    project.training.mkdir(parents=True, exist_ok=True)
    devices = available_devices(resources.device)
    return Plan(
        devices, project.training.resolve(), cpu_threads(), resources.budget_seconds,
        data_dir=resources.data_dir, largest=resources.largest,
    )  # fmt: skip


class _ContainedProcess:
    """A training process behind the walls of `archer.verify.contain`."""

    def __init__(self, command: list[str], scratch: Path, gpu: bool, readable: list[Path]) -> None:
        from archer.verify.contain import start

        environment = {"ARCHER_CACHE": str(cache_folder())}
        writable = []
        if gpu:
            compiled = cache_folder() / "compiled"
            compiled.mkdir(parents=True, exist_ok=True)
            environment |= {
                "TORCHINDUCTOR_CACHE_DIR": str(compiled),
                "TRITON_CACHE_DIR": str(compiled / "triton"),
            }
            writable = [compiled]
        self.contained = start(
            command, scratch=scratch, limits=_limits(gpu), readable=[cache_folder(), *readable],
            writable=writable, environment=environment, gpu=gpu,
        )  # fmt: skip

    def lines(self) -> Iterator[str]:
        return self.contained.lines()

    def kill(self) -> None:
        self.contained.kill()

    def end(self) -> str:
        ending = self.contained.wait()
        if ending.reason == "finished" and ending.status == 0:
            return ""
        last = ending.error.strip().splitlines()
        return f"{ending.reason}, status {ending.status}{f': {last[-1][:300]}' if last else ''}"


def _limits(gpu: bool) -> Any:
    from archer.verify.contain import Limits

    memory = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return Limits(
        memory_bytes=memory, cpu_seconds=FOREVER_SECONDS, wall_seconds=FOREVER_SECONDS, open_files=4096,
        processes=512 if gpu else 1, output_bytes=2**30, file_bytes=2**35,
    )  # fmt: skip


def _starter(resources: Resources) -> Any:
    if not resources.walls:
        return PlainProcess
    readable = [resources.data_dir] if resources.data_dir else []

    def start(command: list[str], scratch: Path, gpu: bool) -> Process:
        return _ContainedProcess(command, scratch, gpu, readable)

    return start
