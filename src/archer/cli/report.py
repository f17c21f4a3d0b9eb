"""`archer report`: a cycle's report, or a whole campaign's, written again from the ledger alone."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from archer.cli.console import print_json, print_note, results
from archer.cli.shared import DEFAULT_PROJECT, JsonOption, ProjectOption, one_of, open_project
from archer.errors import UserError, unknown

if TYPE_CHECKING:
    from archer.cycle.laboratory import Laboratory
    from archer.ledger import HistoryTable, Ledger
    from archer.ledger.records import CycleRecord
    from archer.mad import Preset
    from archer.report import Facts, Note

LANGUAGES = ("en", "zh")


def command(
    cycle: Annotated[
        str | None, typer.Argument(metavar="CYCLE", help="A cycle's number; the last one if left out.")
    ] = None,
    project: ProjectOption = DEFAULT_PROJECT,
    language: Annotated[
        str, typer.Option("--language", metavar="NAME", help="en or zh: the same facts.")
    ] = "en",
    campaign: Annotated[
        bool, typer.Option("--campaign", help="One report on all cycles of the project.")
    ] = False,
    history: Annotated[
        Path | None,
        typer.Option("--history", metavar="FILE", help="The table that the cycle was run with, if any."),
    ] = None,
    decoding: Annotated[
        bool,
        typer.Option("--decoding", help="First time how fast the rules decode one token on this machine."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Write a cycle's report again from the ledger alone.

    A report is a Markdown file and one HTML page that works offline.

    \b
    Examples: archer report
              archer report 0003 --language zh
              archer report --decoding
              archer report --campaign
    """
    one_of(("CYCLE", cycle is not None), ("--campaign", campaign))
    one_of(("--decoding", decoding), ("--campaign", campaign))
    if language not in LANGUAGES:
        raise unknown("language", language, LANGUAGES)
    with open_project(project) as ledger:
        if campaign:
            paths, about = _write_campaign(ledger, project, language), "campaign"
            table: Any = None
        else:
            chosen = _cycle(ledger, cycle, project)
            if chosen.state == "running":
                print_note(f"cycle {chosen.id} is not over: the command that began it continues it")
            facts, paths = _write_cycle(ledger, chosen, project, language, history, decoding)
            about, table = chosen.id, (facts, chosen)
    if as_json:
        print_json({"cycle": about, "language": language, "paths": [str(path) for path in paths]})
    elif table is None:
        results().print("\n".join(str(path) for path in paths), markup=False, soft_wrap=True)
    else:
        from archer.report import final_table

        results().print(final_table(table[0], language, paths))


def _cycle(ledger: Ledger, wanted: str | None, project: Path) -> CycleRecord:
    cycles = ledger.cycles()
    if not cycles:
        raise UserError(f"'{project}' has no cycle to report on yet: `archer run` makes one")
    if wanted is None:
        return cycles[-1]
    found = [
        one for one in cycles if wanted == one.id or (wanted.isdecimal() and int(wanted) == _number(one))
    ]
    if not found:
        raise unknown("cycle", wanted, [one.id for one in cycles])
    return found[-1]


def _number(cycle: CycleRecord) -> int | None:
    return int(cycle.id) if cycle.id.isdecimal() else None


def _write_cycle(
    ledger: Ledger,
    cycle: CycleRecord,
    project: Path,
    language: str,
    history: Path | None,
    decoding: bool = False,
) -> tuple[Facts, tuple[Path, ...]]:
    from archer.cycle.project import Project
    from archer.report import build

    laboratory = _laboratory(ledger, cycle, project, history)
    if decoding:
        _time_decoding(laboratory, cycle, project)
    facts = laboratory.facts(cycle, language, ranks=laboratory.preset.ranks, **_compared(laboratory, cycle))
    return facts, _write(build(facts, language), Project(project).reports / cycle.id)


def _time_decoding(laboratory: Laboratory, cycle: CycleRecord, project: Path) -> None:
    from archer.report.costs import measure_decoding

    runs = laboratory.ledger.runs(keys=cycle.run_keys) if cycle.run_keys else ()
    rules = {rule.name: rule for rule in laboratory.known_rules()}
    if layers := len({run.rule for run in runs} & rules.keys()):
        print_note(f"timing {layers} layer{'s' * (layers > 1)}, one token at a time")
    try:
        measure_decoding(runs, rules, project)
    except OSError as error:
        raise UserError(f"'{project}' cannot keep the times: {error.strerror or error}") from error


def _write(note: Note, folder: Path, name: str = "report") -> tuple[Path, ...]:
    from archer.report import write

    try:
        return write(note, folder, name)
    except OSError as error:
        raise UserError(f"'{folder}' cannot be written: {error.strerror or error}") from error


def _laboratory(ledger: Ledger, cycle: CycleRecord, project: Path, history: Path | None) -> Laboratory:
    """What the cycle itself wrote its report with; the ledger is only read."""
    from archer.cycle.laboratory import Laboratory
    from archer.cycle.measuring import Judging
    from archer.cycle.project import Project
    from archer.cycle.training import Resources
    from archer.cycle.watch import Watcher

    tables = _history(cycle, history)
    judging = Judging(cycle.settings.get("until_decided"), cycle.settings.get("confirm"))
    return Laboratory(
        Project(project), ledger, _preset(cycle.preset), tables, Resources(), Watcher(), cycle.seed,
        judging=judging,
    )  # fmt: skip


def _preset(name: str) -> Preset:
    """A preset by name. quick-cosine or quick-width144 are quick, trained otherwise; others rank nothing."""
    from archer.mad.presets import PRESETS

    known = PRESETS.get(name.partition("-")[0])
    return replace(known or replace(PRESETS["smoke"], settings=(), ranks=False), name=name)


def _history(cycle: CycleRecord, history: Path | None) -> tuple[HistoryTable, ...]:
    from archer.cycle.laboratory import history_digest
    from archer.ledger import builtin_history, read_table

    tables = (read_table(history),) if history is not None else builtin_history()
    asked = cycle.settings.get("history")
    if asked is not None and asked != history_digest(tables):
        print_note(
            f"cycle {cycle.id} was run with another history than {history or 'the built-in tables'}: "
            "what the report says of past trials is of these; give its table with --history"
        )
    return tables


def _compared(laboratory: Laboratory, cycle: CycleRecord) -> dict[str, Any]:
    """The comparisons that no verdict holds: all of a bench's, and of a cycle's company those beside it."""
    from archer.cycle.again import bench_again, reference_of
    from archer.cycle.reach import Reach
    from archer.cycle.reading import compare_known

    ledger = laboratory.ledger
    runs = ledger.runs(keys=cycle.run_keys) if cycle.run_keys else ()
    if cycle.proposal is None:
        comparisons, confirmations = bench_again(laboratory, cycle, runs)
        return {"comparisons": comparisons, "confirmations": confirmations}
    reach, reference = Reach(ledger, runs), reference_of(cycle)
    if reference not in reach.hashes:
        return {}
    candidate = ledger.proposals(id=cycle.proposal)[0].rule
    others = [rule for rule in cycle.rules if rule in reach.hashes and rule not in (reference, candidate)]
    return {"comparisons": compare_known(reach, [(rule, reference) for rule in others], cycle.preset)}


def _write_campaign(ledger: Ledger, project: Path, language: str) -> tuple[Path, ...]:
    from archer.cycle.project import Project
    from archer.report import summarise
    from archer.report.summary import gather_campaign
    from archer.rules import get_rule, rule_names

    if not ledger.cycles():
        raise UserError(f"'{project}' has no cycle to report on yet: `archer run` makes one")
    note = summarise(gather_campaign(ledger, [get_rule(name) for name in rule_names()]), language)
    return _write(note, Project(project).reports, "campaign")
