"""Times the generators of the six tasks: sequences per second, after checking what they draw.

    python benchmarks/data.py [--all] [--repeats 3]

One thread, processor seconds, no cache. For each task the baseline and the slowest settings are drawn
(`--all`: the 66), each training set whole; a setting is timed only when its exact reader is right. The last
line is JSON.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time
from statistics import median
from typing import Any

import numpy as np

from archer.errors import exit_plainly
from archer.mad import BASELINES, GENERATOR_VERSION, SETTINGS, Setting, generate
from archer.mad.checks import check_setting
from archer.mad.settings import TASK_NAMES

SLOWEST_ALLOWED_SECONDS = 3.0


def chosen_settings(every: bool) -> tuple[Setting, ...]:
    """The baselines, and of each task the settings with the most tokens and with the largest vocabulary."""
    if every:
        return SETTINGS
    chosen = list(BASELINES)
    for task in TASK_NAMES:
        settings = [setting for setting in SETTINGS if setting.task == task]
        chosen.append(max(settings, key=lambda s: s.length * s.train_examples))
        chosen.append(max(settings, key=lambda s: s.vocabulary))
    return tuple(setting for setting in SETTINGS if setting in chosen)


def measure(setting: Setting, repeats: int) -> dict[str, Any]:
    """Processor seconds for the whole training set: the median over seeds 0, 1, ..."""
    row = check_setting(setting)
    if row.solver != 1.0:
        raise SystemExit(f"{setting.name}: the reader scores {row.solver}, expected 1.0; nothing is timed")
    seconds = []
    for seed in range(repeats):
        started = time.process_time()
        generate(setting, seed, "train")
        seconds.append(time.process_time() - started)
    return {
        "task": setting.task,
        "setting": setting.name,
        "seconds": round(median(seconds), 4),
        "sequences_per_second": round(setting.train_examples / median(seconds)),
        "determined": round(row.determined, 4),
    }


def revision() -> str:
    found = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return found.stdout.strip() or "unknown"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--all", action="store_true", help="all 66 settings")
    parser.add_argument("--repeats", type=int, default=3, help="seeds drawn for each setting")
    arguments = parser.parse_args()
    if arguments.repeats < 1:
        parser.error("--repeats: expected 1 or more")
    rows = []
    for setting in chosen_settings(arguments.all):
        row = measure(setting, arguments.repeats)
        rows.append(row)
        print(f"{row['setting']:44} {row['seconds']:8.3f} s  {row['sequences_per_second']:10,} sequences/s")
    slowest = max(rows, key=lambda row: row["seconds"])
    print(f"slowest: {slowest['setting']}, {slowest['seconds']:.2f} s (allowed: {SLOWEST_ALLOWED_SECONDS} s)")
    about = {
        "benchmark": "data",
        "revision": revision(),
        "generator_version": GENERATOR_VERSION,
        "machine": platform.machine(),
        "numpy": np.__version__,
        "python": platform.python_version(),
        "slowest_seconds": slowest["seconds"],
        "within_limit": slowest["seconds"] < SLOWEST_ALLOWED_SECONDS,
    }
    print(json.dumps({**about, "rows": rows}))


if __name__ == "__main__":
    exit_plainly(main)
