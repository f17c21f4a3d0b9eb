"""The training process: reads plans, trains, writes events and outcomes as JSON lines.

    python -m archer.fleet.worker cuda:0 2 < PLANS.jsonl      # with two threads

It gets ready, says {"event": "ready"}, and trains one plan after the other, each a line of standard input,
until that ends. It runs apart from Archer's own process because it executes the code of rules: it needs to
read the data cache and its checkpoints, and to write its checkpoints; nothing else. Every line on standard
output is one JSON object with "event"; the last of a plan is {"event": "done"}.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any

Say = Callable[[dict[str, Any]], None]


def main(argv: list[str]) -> int:
    """Trains the plans that come; returns the exit status, 2 where the user can put it right."""
    if len(argv) != 2 or not argv[1].isdecimal():
        sys.stderr.write("usage: python -m archer.fleet.worker DEVICE THREADS < PLANS.jsonl\n")
        return 2
    device, threads = argv
    plans, out = _pipes()

    def say(event: dict[str, Any]) -> None:
        out.write(json.dumps(event, allow_nan=False) + "\n")

    _get_ready(device, int(threads))
    say({"event": "ready"})
    for line in plans:
        if status := _train(json.loads(line), say):
            return status
    return 0


def _pipes() -> tuple[IO[str], IO[str]]:
    """Plans and answers, out of the way of trained code: what that reads is empty, and what it prints goes to
    standard error."""
    plans, out = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w", buffering=1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    return plans, out


def _get_ready(device: str, threads: int) -> None:
    for name, value in thread_settings(threads).items():
        os.environ.setdefault(name, value)
    import torch

    from archer.fleet.standby import prepare

    torch.set_num_threads(threads)
    prepare(device)


def thread_settings(threads: int) -> dict[str, str]:
    """The environment of a training process with so many threads, which PyTorch reads once, on import."""
    # Threads that spin while they wait make training ten times slower on cores that others use too.
    return {"OMP_WAIT_POLICY": "PASSIVE", "TORCHINDUCTOR_COMPILE_THREADS": str(threads)}


def _train(plan: dict[str, Any], say: Say) -> int:
    """One plan; returns the exit status."""
    import torch

    from archer.errors import UserError
    from archer.fleet.race import race_from_json
    from archer.fleet.train import Options, train
    from archer.fleet.wire import outcome_to_json, runs_from_json
    from archer.mad.store import load

    given = plan["options"]
    race = race_from_json(given.get("race"))
    options = Options(**{**given, "checkpoints": Path(given["checkpoints"]), "race": race})
    runs = runs_from_json(plan)
    say({"event": "start", "runs": len(runs), "torch": torch.__version__, "device": options.device})
    try:
        for outcome in train(
            runs, options, load=lambda s, n, split: load(s, n, split, plan["data_dir"]), report=say
        ):
            say({"event": "outcome", "outcome": outcome_to_json(outcome)})
    except (UserError, MemoryError) as error:
        say({"event": "failed", "message": str(error)})
        return 2
    say({"event": "done"})
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
