"""The training process: reads a plan, trains, writes events and outcomes as JSON lines.

    python -m archer.fleet.worker PLAN.json
    python -m archer.fleet.worker --stand-by cuda:0 2    # with two threads; reads its plan when it is ready

It runs apart from Archer's own process because it executes the code of rules: it needs to read the plan, the
data cache and its checkpoints, and to write its checkpoints; nothing else. Every line on standard output is
one JSON object with "event"; the last is {"event": "done"}. One that stands by says {"event": "ready"} first,
and is told its plan on standard input.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Say = Callable[[dict[str, Any]], None]


def main(argv: list[str]) -> int:
    """Trains a plan; returns the exit status, 2 where the user can put it right."""
    out = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what trained code prints goes to standard error, not between our lines

    def say(event: dict[str, Any]) -> None:
        out.write(json.dumps(event, allow_nan=False) + "\n")

    plan = _plan_to_come(argv[1], argv[2], say) if argv[0] == "--stand-by" else _plan_in(Path(argv[0]))
    return _train(plan, say) if plan else 0


def _plan_in(path: Path) -> dict[str, Any]:
    plan = json.loads(path.read_text())
    _set_threads(plan["threads"])
    return plan


def _plan_to_come(device: str, threads: str, say: Say) -> dict[str, Any]:
    """Gets ready, and waits for the plan; an empty one where nobody needs this process any more."""
    _set_threads(threads)
    from archer.fleet.standby import prepare

    prepare(device)
    say({"event": "ready"})
    return json.loads(sys.stdin.read() or "{}")


def thread_settings(threads: int | str) -> dict[str, str]:
    """The environment of a training process with so many threads, which PyTorch reads once, on import."""
    # Threads that spin while they wait make training ten times slower on cores that others use too.
    return {"OMP_WAIT_POLICY": "PASSIVE", "TORCHINDUCTOR_COMPILE_THREADS": str(threads)}


def _set_threads(threads: int | str) -> None:
    for name, value in thread_settings(threads).items():
        os.environ.setdefault(name, value)


def _train(plan: dict[str, Any], say: Say) -> int:
    import torch

    from archer.errors import UserError
    from archer.fleet.race import race_from_json
    from archer.fleet.train import Options, train
    from archer.fleet.wire import outcome_to_json, runs_from_json
    from archer.mad.store import load

    torch.set_num_threads(plan["threads"])
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
