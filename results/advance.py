"""The queue of reference runs: any machine, for any number of minutes, advances it.

    python results/advance.py plan baseline delta_net softmax --seeds 1 --race > plan.json
    python -m archer.fleet.launch plan.json outcomes.jsonl         # on any number of GPUs
    python results/advance.py absorb outcomes.jsonl plan.json      # back here, into results/<preset>.csv

`plan` asks for what results/<preset>.csv lacks. The state is the CSV files; a piece may end anywhere. A table
has one version of each rule: runs of a newer one wait in results/waiting/ until they are as many, and then take
the place of the older one's, which git keeps.
Make the plan at the revision that trains it: the plan says which that is.
`archer.fleet.launch` needs torch and numpy only (PYTHONPATH=src). It starts `--processes` training processes
on each GPU that the plan names ("cuda": all), stops after the plan's seconds or its own `--seconds`, keeps
checkpoints in the plan's folder, and adds each outcome to the file at once: the same command continues, after
a kill too. Runs that crashed are said on standard output and tried again by the next call.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Collection
from dataclasses import asdict, replace
from pathlib import Path

from archer.cycle.plan import get_preset, named_subject, recipe_of, runs_of
from archer.cycle.project import revision
from archer.cycle.training import run_record
from archer.errors import UserError
from archer.fleet.race import Race
from archer.fleet.wire import outcome_from_json, runs_from_json, runs_to_json
from archer.ledger import read_runs, write_runs
from archer.ledger.records import RunRecord

HERE = Path(__file__).parent


def files(preset: str) -> tuple[Path, Path]:
    """The table of a preset, and what waits beside it."""
    return HERE / f"{preset}.csv", HERE / "waiting" / f"{preset}.csv"


def known(preset: str) -> dict[str, RunRecord]:
    """Records that there are already, by key."""
    return {record.key: record for path in files(preset) if path.exists() for record in read_runs(path)}


def divided(records: Collection[RunRecord]) -> tuple[list[RunRecord], list[RunRecord]]:
    """What belongs into the table, and what waits: of each rule the version with results in the most places
    (a setting and seed) is shown, of equals the one that was trained last; only a later one waits."""
    places = {(r.rule_hash, r.setting, r.seed) for r in records if r.status == "finished"}
    measured = Counter(version for version, _, _ in places)
    in_time = sorted(records, key=lambda record: record.finished_at)
    shown = {r.rule: r.rule_hash for r in sorted(in_time, key=lambda r: measured[r.rule_hash])}
    last = {r.rule: r.rule_hash for r in in_time}
    table = [r for r in records if r.rule_hash == shown[r.rule]]
    return table, [r for r in records if r.rule_hash == last[r.rule] != shown[r.rule]]


def plan(arguments: argparse.Namespace) -> None:
    """Prints the plan for a training process."""
    preset = get_preset(arguments.preset)
    asked = {*arguments.tasks, *arguments.settings}
    settings = [s for s in preset.settings if not asked or {s.task, s.slug, s.name} & asked]
    unknown = asked - {name for s in preset.settings for name in (s.task, s.slug, s.name)}
    if unknown:
        raise UserError(
            f"{preset.name} has no task or setting {', '.join(sorted(unknown))}; it has the tasks "
            f"{', '.join(dict.fromkeys(s.task for s in preset.settings))} and the settings "
            f"{', '.join(s.name for s in preset.settings)}"
        )
    runs = [
        run
        for name in arguments.rules
        for run in runs_of(named_subject(name), preset, recipe_of(preset), settings, range(arguments.seeds))
    ]
    done = known(preset.name)
    options = {
        "device": arguments.device, "checkpoints": arguments.checkpoints, "checkpoint_seconds": 60.0,
        "stop_after_seconds": arguments.seconds, "largest": None,
        "race": asdict(Race()) if arguments.race else None,
    }  # fmt: skip
    missing = [run for run in runs if run.key not in done]
    print(
        json.dumps(
            {
                **runs_to_json(missing),
                "options": options,
                "data_dir": None,
                "preset": preset.name,
                "revision": revision(),
            }
        )
    )


def absorb(arguments: argparse.Namespace) -> None:
    """Adds a training process's outcomes to the table."""
    given = json.loads(Path(arguments.plan).read_text())
    runs = {run.key: run for run in runs_from_json(given)}
    records = known(given["preset"])
    for line in Path(arguments.outcomes).read_text().splitlines():
        event = json.loads(line)
        if event["event"] == "outcome":
            outcome = outcome_from_json(event["outcome"], set(runs))
            record = run_record(runs[outcome.key], outcome, given["preset"])
            device, trained = arguments.device or record.device, given.get("revision", record.revision)
            records[outcome.key] = replace(record, device=device, revision=trained)
    for path, rows in zip(files(given["preset"]), divided(records.values()), strict=True):
        if rows:
            path.parent.mkdir(exist_ok=True)
            write_runs(path, rows)
        else:
            path.unlink(missing_ok=True)
        print(f"{len(rows)} runs in results/{path.relative_to(HERE)}")


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True)
    asking = commands.add_parser("plan")
    asking.add_argument("preset")
    asking.add_argument("rules", nargs="+")
    asking.add_argument("--tasks", nargs="*", default=[], help='as "Noisy Recall" or noisy-recall')
    asking.add_argument("--settings", nargs="*", default=[], help="by name, as compress-v16-t32-n800")
    asking.add_argument("--seeds", type=int, default=1)
    asking.add_argument("--seconds", type=float, default=None)
    asking.add_argument("--race", action="store_true", help="drop grid points that lose clearly")
    asking.add_argument("--device", default="cuda")
    asking.add_argument("--checkpoints", default="checkpoints")
    asking.set_defaults(do=plan)
    taking = commands.add_parser("absorb")
    taking.add_argument("outcomes")
    taking.add_argument("plan")
    taking.add_argument("--device", default="", help="the device's full name, for the table")
    taking.set_defaults(do=absorb)
    arguments = parser.parse_args()
    try:
        arguments.do(arguments)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
