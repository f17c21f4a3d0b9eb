"""What racing would have cost and saved: replays recorded curves, and says how often the winner is dropped.

    python benchmarks/race.py results/baseline.csv outcomes.jsonl [archer-project ...]

Reads curves from outcomes of training processes (*.jsonl; which run a key is stands in a *.csv of runs, given
too) and from ledgers (project folders). Only whole grids count: every point finished or diverged. The winner
is the point with the best validation accuracy; regret is its held-out score minus that of the winner among
those that stay; a grid is harmed where that is more than 0.01. Intervals: 95%, Wilson's for shares, a
bootstrap over grids for the regret. The last line
is JSON.
"""

from __future__ import annotations

import argparse
import json
import math
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np

from archer.cycle.plan import get_preset, recipe_of
from archer.errors import UserError, exit_plainly
from archer.fleet.race import Race, Racer, losers
from archer.fleet.run import Evaluation
from archer.ledger import Ledger, read_runs
from archer.ledger.records import CurvePoint, RunRecord

HARM = 0.01
Grid = tuple[RunRecord, ...]


@dataclass(frozen=True)
class Replay:
    """One grid, raced. saved: share of its run-steps that the race left out."""

    task: str
    winner_dropped: bool
    regret: float
    saved: float


def read(paths: Iterable[Path]) -> dict[str, RunRecord]:
    """All runs with their curves, by key."""
    records: dict[str, RunRecord] = {}
    curves: dict[str, tuple[CurvePoint, ...]] = {}
    for path in paths:
        if path.suffix == ".csv":
            records |= {run.key: run for run in read_runs(path)}
        elif path.suffix == ".jsonl":
            curves |= outcome_curves(path)
        else:
            with Ledger.in_folder(path, read_only=True) as ledger:
                records |= {run.key: run for run in ledger.runs()}
    known = {key: replace(run, curve=curves.get(key, run.curve)) for key, run in records.items()}
    return {key: run for key, run in known.items() if run.curve or run.status == "diverged"}


def outcome_curves(path: Path) -> dict[str, tuple[CurvePoint, ...]]:
    """The curves of a training process's events, by run. Raises UserError where the file holds none."""
    try:
        events = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        outcomes = [event["outcome"] for event in events if event["event"] == "outcome"]
        return {o["key"]: tuple(CurvePoint(*row) for row in o["curve"]) for o in outcomes}
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror or error}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{path} is no list of a training process's events, one in a line ({error})"
        ) from error


def grids(records: Iterable[RunRecord]) -> list[Grid]:
    """The runs of one rule, preset, setting and seed together, where all of the preset's points are there."""
    found: dict[tuple[object, ...], list[RunRecord]] = defaultdict(list)
    for run in records:
        if run.status in ("finished", "diverged"):
            found[(run.preset, run.rule_hash, run.setting, run.seed)].append(run)
    return [tuple(grid) for (preset, *_), grid in found.items() if len(grid) == points_of(str(preset)) > 1]


def points_of(preset: str) -> int:
    chosen = get_preset(preset.removesuffix("-cosine"))
    return len(chosen.learning_rates) * len(chosen.weight_decays)


def raced(grid: Grid, race: Race) -> Replay | None:
    """Runs the race epoch by epoch over the recorded curves; None where no point of the grid finished."""
    recipe = recipe_of(get_preset(grid[0].preset.removesuffix("-cosine")))
    ended = {run.key: run.epochs for run in grid}
    for epoch in range(recipe.evaluate_every, recipe.epochs, recipe.evaluate_every):
        racers = [racer_at(run, min(epoch, ended[run.key]), epoch < ended[run.key]) for run in grid]
        for key in losers(racers, race, recipe):
            ended[key] = epoch
    whole = [run for run in grid if ended[run.key] == run.epochs]
    best, kept = chosen(grid), chosen(whole)
    if best is None:
        return None
    regret = (best.held_out or 0.0) - (kept.held_out or 0.0 if kept else 0.0)
    saved = 1 - sum(ended.values()) / sum(run.epochs for run in grid)
    return Replay(grid[0].task, best not in whole, regret, saved)


def racer_at(run: RunRecord, epoch: int, running: bool) -> Racer:
    curve = tuple(Evaluation(**asdict(point)) for point in run.curve if point.epoch <= epoch)
    return Racer(run.key, (run.setting, run.seed), epoch, curve, running)


def chosen(runs: Sequence[RunRecord]) -> RunRecord | None:
    """As the judge chooses: the best validation accuracy, ties to the smaller rate and decay."""
    usable = [run for run in runs if run.status == "finished"]
    return min(usable, key=lambda r: (-(r.validation or 0.0), r.learning_rate, r.weight_decay), default=None)


def wilson(count: int, of: int) -> tuple[float, float]:
    """A 95% interval for a share (Wilson 1927)."""
    z, share = 1.96, count / of
    middle, spread = share + z * z / (2 * of), z * math.sqrt(share * (1 - share) / of + z * z / (4 * of * of))
    return max(0.0, (middle - spread) / (1 + z * z / of)), min(1.0, (middle + spread) / (1 + z * z / of))


def summary(replays: Sequence[Replay]) -> dict[str, object]:
    regrets = np.array([replay.regret for replay in replays])
    dropped, of = sum(replay.winner_dropped for replay in replays), len(replays)
    harmed = int((regrets > HARM).sum())
    draws = np.random.default_rng(0).choice(regrets, (4000, of)).mean(1)
    return {
        "grids": of,
        "winner_dropped": dropped,
        "share": [dropped / of, *wilson(dropped, of)],
        "harmed": [harmed / of, *wilson(harmed, of)],
        "regret": [float(regrets.mean()), *np.quantile(draws, (0.025, 0.975)).tolist()],
        "worst_regret": float(regrets.max()),
        "saved": float(np.mean([replay.saved for replay in replays])),
    }


def show(name: str, found: dict[str, object]) -> None:
    share, harmed, regret = found["share"], found["harmed"], found["regret"]
    print(
        f"{name:16} {found['grids']:4} grids, winner dropped in {found['winner_dropped']} "
        f"({share[0]:.1%}, {share[1]:.1%} to {share[2]:.1%}), harmed {harmed[0]:.1%} "  # type: ignore[index]
        f"({harmed[1]:.1%} to {harmed[2]:.1%}), regret {regret[0]:.4f} "  # type: ignore[index]
        f"({regret[1]:.4f} to {regret[2]:.4f}), worst {found['worst_regret']:.4f}, "  # type: ignore[index]
        f"saved {found['saved']:.0%} of the run-steps"
    )


def main() -> None:
    usual = Race()
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("paths", nargs="+", type=Path)
    parser.add_argument("--rungs", type=float, nargs="+", default=list(usual.rungs))
    parser.add_argument("--keep", type=float, default=usual.keep)
    parser.add_argument("--behind", type=float, default=usual.behind)
    arguments = parser.parse_args()
    race = Race(tuple(arguments.rungs), arguments.keep, arguments.behind)
    replays = [replay for grid in grids(read(arguments.paths).values()) if (replay := raced(grid, race))]
    if not replays:
        raise UserError("no whole grid with curves in these files: give outcomes with the CSV of their runs")
    by_task = {task: [r for r in replays if r.task == task] for task in sorted({r.task for r in replays})}
    results = {name: summary(found) for name, found in {**by_task, "all": replays}.items()}
    for name, found in results.items():
        show(name, found)
    print(json.dumps({"race": asdict(race), "results": results}))


if __name__ == "__main__":
    exit_plainly(main)
