"""Runs the command line many times, each time in a process of its own, with the slow imports done once.

Reads one JSON line per command (arguments, columns, and the files for its output) and answers with its exit
status; the line "count" asks for the costs of the test project's rules beforehand. Every command is a fork of
this process, which has one thread and has loaded what the commands load; `tests/cli/test_frame.py` starts the
program without this help.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any


def load() -> None:
    """What takes the time when a command starts."""
    import scipy.stats  # noqa: F401
    import sqlalchemy  # noqa: F401
    import torch  # noqa: F401

    import archer.judge.history
    import archer.ledger.store
    import archer.report.html
    import archer.verify.reach  # noqa: F401
    from archer.rules import get_rule, rule_names

    for name in rule_names():
        get_rule(name)


def count() -> None:
    """What the rules of `tests.cli.project` cost: counted here once, every later fork has it."""
    sys.path.insert(0, str(Path(__file__).parents[2]))
    from tests.cli.project import CANDIDATE, LEVELS, PRESETS, RULE

    from archer.rules import get_rule, load_rule
    from archer.verify.layer_cost import LayerSize, layer_costs

    found = {name: get_rule(name) for name in LEVELS if name != CANDIDATE}
    quick = PRESETS["quick"]
    size = LayerSize(quick.width, quick.heads, quick.chunk_size)
    candidate = load_rule(RULE.source, CANDIDATE, get_rule)
    layer_costs([*found.values(), candidate], size, {CANDIDATE: RULE.source})


def serve() -> None:
    """Answer until standard input ends."""
    print("ready", flush=True)
    for line in sys.stdin:
        if line == "count\n":
            count()
            print(0, flush=True)
            continue
        child = os.fork()
        if child == 0:
            os._exit(run(json.loads(line)))
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)


def run(asked: dict[str, Any]) -> int:
    """One command, its output in files; its exit status."""
    for stream, path in ((sys.stdout, asked["stdout"]), (sys.stderr, asked["stderr"])):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), stream.fileno())
    os.environ["COLUMNS"] = str(asked["columns"])
    sys.argv = ["archer", *asked["arguments"]]
    from archer.cli import main

    try:
        main()
        status = 0
    except SystemExit as ended:
        status = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:  # noqa: BLE001  what Python itself would print
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


if __name__ == "__main__":
    load()
    serve()
