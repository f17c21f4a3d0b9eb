"""The smoke preset's runs on this processor: as fleets, and one after the other, in turns in one process.

    python benchmarks/smoke.py [--rule delta_net] [--epochs 2]

Checks first that both ways give the same losses. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from dataclasses import replace

import torch

from archer.cycle.plan import get_preset, named_subject, recipe_of, runs_of
from archer.errors import exit_plainly
from archer.fleet.devices import cpu_threads
from archer.fleet.run import Outcome, Run
from archer.fleet.train import Options, train


def seconds(runs: list[Run], largest: int | None) -> tuple[float, dict[str, Outcome]]:
    """Wall seconds to train all runs, at most `largest` at a time."""
    began = time.perf_counter()
    found = {outcome.key: outcome for outcome in train(runs, Options(largest=largest))}
    return time.perf_counter() - began, found


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rule", default="delta_net")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    if min(arguments.epochs, arguments.rounds) < 1:
        parser.error("--epochs and --rounds: expected 1 or more")
    torch.set_num_threads(cpu_threads())
    preset = get_preset("smoke")
    recipe = replace(recipe_of(preset), epochs=arguments.epochs)
    runs = list(runs_of(named_subject(arguments.rule), preset, recipe))
    seconds(runs[:1], None)
    ratios, fleets = [], []
    for _ in range(arguments.rounds):
        together, first = seconds(runs, None)
        alone, second = seconds(runs, 1)
        worst = max(abs(first[k].curve[-1].test_loss - second[k].curve[-1].test_loss) for k in first)
        assert worst < 1e-3, f"a fleet's losses differ from the same runs alone by {worst}"
        ratios.append(alone / together)
        fleets.append(together)
        print(
            f"{len(runs)} runs: together {together:.1f} s, one by one {alone:.1f} s, ratio {ratios[-1]:.2f}",
            flush=True,
        )
    result = {
        "machine": platform.processor() or platform.machine(),
        "threads": cpu_threads(), "torch": torch.__version__,
        "rule": arguments.rule, "runs": len(runs), "epochs": arguments.epochs,
        "ratio_median": sorted(ratios)[len(ratios) // 2], "ratios": ratios, "fleet_seconds": fleets,
    }  # fmt: skip
    print(json.dumps(result))


if __name__ == "__main__":
    exit_plainly(main)
