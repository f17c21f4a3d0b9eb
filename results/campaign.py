"""The candidates of the campaigns: a project that knows them, and back into the tables.

    python results/campaign.py begin PROJECT       # a new project, with all runs and verdicts so far
    archer discover --preset quick -p PROJECT      # on any machine, as long as you like
    python results/campaign.py absorb PROJECT      # its runs into campaign.csv, its rules into campaign/

`begin` trains nothing: the project gets the runs of quick.csv and campaign.csv, and each rule of campaign/
that has all its runs is judged by them as `archer try` judges, so that a researcher knows what came of it.
The others are named; `archer try results/campaign/RULE.py -p PROJECT --preset quick` trains what they lack.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from archer.cycle import try_rule
from archer.cycle.measuring import Judging
from archer.cycle.plan import get_preset
from archer.cycle.training import Resources
from archer.errors import UserError
from archer.ledger import LEDGER_NAME, Ledger, import_runs, read_runs, write_runs
from archer.ledger.records import RunRecord
from archer.rules import Rule, get_rule, load_rule, rule_names
from archer.verify.reach import reach

HERE = Path(__file__).parent
PRESET = get_preset("quick")


def rules() -> dict[str, Rule]:
    """The rules of results/campaign/ by name, parents before what is built on them."""
    texts = {path.stem: path.read_text() for path in sorted((HERE / "campaign").glob("*.py"))}
    loaded: dict[str, Rule] = {}

    def find(name: str) -> Rule:
        if name in texts and name not in loaded:
            loaded[name] = load_rule(texts[name], name, find)
        return loaded.get(name) or get_rule(name)

    for name in texts:
        find(name)
    return loaded


def measured(rule: Rule, runs: list[RunRecord], known: dict[str, Rule]) -> set[str]:
    """The settings of the preset in which a rule has its runs, be it under the name of a parent that computes
    the same there."""
    own = {(run.setting, run.seed) for run in runs if (run.rule, run.rule_hash) == (rule.name, rule.hash)}
    found = {s.name for s in PRESET.settings if all((s.name, seed) in own for seed in range(PRESET.seeds))}
    if rule.parent is None:
        return found
    parent = known.get(rule.parent) or get_rule(rule.parent)
    lengths = {s.name: s.input_length for s in PRESET.settings}
    reached = reach(rule, parent, sorted({*lengths.values()}), PRESET.chunk_size)
    return found | {s for s in measured(parent, runs, known) if lengths[s] not in reached}


def begin(project: Path) -> None:
    """Makes the project."""
    if (project / LEDGER_NAME).exists():
        raise UserError(f"{project} is a project already: name a new folder")
    project.mkdir(parents=True, exist_ok=True)
    with Ledger.in_folder(project) as ledger:
        for table in ("quick.csv", "campaign.csv"):
            print(f"{import_runs(ledger, HERE / table)} runs of results/{table}")
        runs = list(ledger.runs(preset=PRESET.name))
    known = rules()
    for name, rule in known.items():
        lacking = {s.name for s in PRESET.settings} - measured(rule, runs, known)
        if lacking:
            print(f"{name}: not whole, {', '.join(sorted(lacking))}")
            continue
        file = HERE / "campaign" / f"{name}.py"
        more = {"judging": Judging(confirm=False), "resources": Resources(device="cpu")}
        print(f"{name}: {try_rule(file, project, preset=PRESET, **more).cycle.state}")


def absorb(project: Path) -> None:
    """Adds what the project has and the tables lack."""
    table = HERE / "campaign.csv"
    kept = [*read_runs(table)]
    elsewhere = {run.key for run in (*kept, *read_runs(HERE / "quick.csv"))}
    with Ledger.in_folder(project, read_only=True) as ledger:
        new = [run for run in ledger.runs(preset=PRESET.name) if run.key not in elsewhere]
        texts = {p.rule: p.source for p in ledger.proposals()}
    write_runs(table, [*kept, *new])
    print(f"{len(new)} runs more in results/campaign.csv")
    for name in sorted({run.rule for run in new} & {*texts} - {*rule_names()}):
        (HERE / "campaign" / f"{name}.py").write_text(texts[name])


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=("begin", "absorb"))
    parser.add_argument("project", type=Path)
    arguments = parser.parse_args()
    try:
        {"begin": begin, "absorb": absorb}[arguments.command](arguments.project)
    except (UserError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
