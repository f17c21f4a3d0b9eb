"""`archer compare`: two rules, task by task, with intervals and one word each."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from archer.cli.console import print_json, results
from archer.cli.shared import (
    ABSENT,
    DEFAULT_PROJECT,
    ROOMY,
    FromOption,
    JsonOption,
    OrProjectOption,
    latest_versions,
    open_runs,
    plain_table,
    presets_of,
    project_rules,
    titled,
)
from archer.errors import UserError, unknown

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.text import Text

    from archer.judge.noise import NoiseFloor
    from archer.ledger import Ledger
    from archer.ledger.records import Comparison, RunRecord, TaskComparison
    from archer.report.costs import RuleCost

SHOWN = 12
"""Notes on missing runs that are printed in full."""

STYLES = {"better": "bold cyan", "worse": "bold dark_orange", "same": "dim", "undecided": "magenta"}


def command(
    a: Annotated[str, typer.Argument(metavar="A", help="A rule; NAME@HASH for an earlier version of it.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The rule to compare it with.")],
    reference: Annotated[
        str | None, typer.Option("--reference", metavar="RULE", help="Compare both with this rule as well.")
    ] = None,
    project: OrProjectOption = None,
    table: FromOption = None,
    preset: Annotated[
        str | None,
        typer.Option(
            "--preset", metavar="NAME", help="The preset whose runs count; the latest that both have."
        ),
    ] = None,
    margin: Annotated[
        float, typer.Option("--margin", metavar="NUMBER", help="Differences smaller than this are the same.")
    ] = 0.01,
    as_json: JsonOption = False,
) -> None:
    """Two rules on the six tasks: differences with intervals.

    A minus B: the difference, its 95% interval, the p-value adjusted over six tasks, and one word. Only
    runs with the same data, seeds and grid are paired; runs that failed are named, never averaged away.
    Under a preset that ranks nothing no word is said; in JSON `ranks` is false there.
    Nothing is trained: `archer bench A B --until-decided` adds seeds where it is undecided.

    \b
    Examples: archer compare hybrid delta_net
              archer compare hybrid delta_net --reference gated_delta_net --preset quick
              archer compare softmax gated_delta_net --from results/baseline.csv
    """
    from archer.report.costs import ledger_costs

    with open_runs(project, table) as ledger:
        runs = ledger.runs()
        names = [name for name in (a, b, reference) if name is not None]
        where = table or project or DEFAULT_PROJECT
        presets_of(runs, None, where)  # without any runs, no name of a rule can be wrong
        labelled = _labelled(runs, names, where)
        _refuse_itself(labelled, a, b)
        chosen = _preset(labelled, names, preset, where)
        of_preset = tuple(run for run in labelled if run.preset == chosen)
        pairs = [(a, b)]
        if reference is not None:
            pairs += [(name, reference) for name in (a, b) if name != reference]
        comparisons, floors, known = _compare(ledger, of_preset, list(dict.fromkeys(pairs)), chosen, margin)
        costs = {} if as_json else ledger_costs(ledger, [run for run in of_preset if run.rule in names])
    if as_json:
        print_json([{**asdict(one), "ranks": _ranks(one.preset)} for one in comparisons])
        return
    _show(comparisons, costs, [_noise(comparisons[0], floors), *_one_seed(comparisons[0], known)])


def _labelled(runs: Sequence[RunRecord], names: Sequence[str], where: Path) -> tuple[RunRecord, ...]:
    """The newest version of every rule, and the versions asked for as NAME@HASH under that very name. A rule
    that can be trained and has no runs here is no wrong name."""
    newest = latest_versions(runs)
    labelled = list(newest)
    for name in dict.fromkeys(names):
        rule, at, start = name.partition("@")
        known = {run.rule for run in runs}
        if rule not in known and (at or rule not in _trainable(where)):
            raise unknown("rule", rule, known)
        if not at:
            continue
        hashes = sorted({run.rule_hash for run in runs if run.rule == rule})
        fitting = [one for one in hashes if start and one.startswith(start)]
        if len(fitting) != 1:
            raise UserError(f"'{name}' fits {len(fitting)} versions of {rule}; it has: {', '.join(hashes)}")
        labelled += [replace(run, rule=name) for run in runs if run.rule_hash == fitting[0]]
    return tuple(labelled)


def _refuse_itself(runs: Sequence[RunRecord], a: str, b: str) -> None:
    """Raises UserError where A and B are one rule in one version, also where one says so as NAME@HASH."""
    names = {name.partition("@")[0] for name in (a, b)}
    if len(names) == 1 and len({run.rule_hash for run in runs if run.rule in (a, b)}) <= 1:
        raise UserError(
            f"{names.pop()} would be compared with itself, where every difference is 0: give another rule as "
            "B, or an earlier version as NAME@HASH (`archer table` shows what a single rule has measured)"
        )


def _preset(runs: Sequence[RunRecord], names: Sequence[str], wanted: str | None, where: Path) -> str:
    """The preset of which all the rules have runs, the one trained last; or the wanted one."""
    ordered = presets_of(runs, wanted, where)
    trained = {name: {run.preset for run in runs if run.rule == name} for name in names}
    shared = [preset for preset in ordered if all(preset in found for found in trained.values())]
    if shared:
        return shared[-1]
    listed = "; ".join(f"{name}: {', '.join(sorted(found)) or 'nowhere'}" for name, found in trained.items())
    under = f"under {wanted}" if wanted else "under one preset"
    lacking = [name for name in names if where.is_file() or ordered[-1] not in trained[name]]
    raise UserError(
        f"{' and '.join(names)} were not all trained {under}, so nothing can be paired (trained: {listed}). "
        + _advice(lacking, ordered[-1], where)
    )


def _advice(names: Sequence[str], preset: str, where: Path) -> str:
    """The command that trains rules under a preset. where: the project, or a table, which stays as it is."""
    earlier = [name for name in names if "@" in name]
    if earlier:
        return f"An earlier version is trained from a copy of its own file: {', '.join(earlier)}"
    asked = [*(_to_bench(name, where) for name in names), *_preset_options(preset)]
    if where.is_file():
        return f"A table stays as it is. Train them in a project, and compare there: {_bench(asked)}"
    project = [] if where == DEFAULT_PROJECT else ["-p", str(where)]
    return f"Train what is missing: {_bench([*asked, *project])}"


def _bench(arguments: Sequence[str]) -> str:
    return shlex.join(["archer", "bench", *arguments])


def _to_bench(name: str, where: Path) -> str:
    """How `archer bench` calls a rule: by its name where it knows it, or else by its file."""
    return name if name in _trainable(where) else f"{name}.py"


def _trainable(where: Path) -> set[str]:
    """The rules that `archer bench` knows by name."""
    from archer.model.baselines import BASELINES
    from archer.rules import rule_names

    return {*rule_names(), *BASELINES, *project_rules(where)}


def _preset_options(name: str) -> list[str]:
    """The options of `archer bench` that keep runs under this preset's name, such as quick-width64-cosine."""
    preset, _, width = name.removesuffix("-cosine").partition("-width")
    options = ["--preset", preset, *(["--width", width] if width else [])]
    return [*options, *(["--schedule", "cosine"] if name.endswith("-cosine") else [])]


def _compare(
    ledger: Ledger,
    runs: tuple[RunRecord, ...],
    pairs: Sequence[tuple[str, str]],
    preset: str,
    margin: float,
) -> tuple[tuple[Comparison, ...], dict[str, NoiseFloor], dict[str, NoiseFloor]]:
    """The comparisons, the noise of a score under this preset, and what of it the first comparison rests on
    (without its two rules)."""
    from archer.cycle.reach import Reach
    from archer.cycle.reading import compare_known
    from archer.judge import noise_floor

    reach = Reach(ledger, runs)
    newest = [run for run in runs if "@" not in run.rule]
    known = noise_floor(runs, preset=preset, exclude=frozenset(pairs[0]))
    return compare_known(reach, pairs, preset, margin), Reach(ledger, newest).noise(), known


def _show(comparisons: Sequence[Comparison], costs: Mapping[str, RuleCost], noise: Sequence[str]) -> None:
    """A table for each comparison, what the rules cost, and what is known of the noise."""
    from archer.report.language import catalogue
    from archer.report.terminal import cost_grid
    from archer.report.wording import Wording

    console = results()
    for comparison in comparisons:
        console.print(_table(comparison, console), "", sep="\n")
    console.print(cost_grid(costs, console.width, Wording(catalogue("en"))), "", sep="\n")
    console.print("\n".join(noise), style="dim", markup=False)


def _table(comparison: Comparison, console: Console) -> RenderableType:
    from rich.text import Text

    from archer.judge.verdicts import RANKS_NOTHING, headline

    grid = plain_table(console.width, many=True)
    grid.add_column("Task", no_wrap=True)
    headings = ("A", "B", "A − B", "95% interval", "p adjusted" if console.width >= ROOMY else "p adj.")
    for heading in headings:
        grid.add_column(heading, justify="right", no_wrap=True)
    grid.add_column("Word", no_wrap=True)
    grid.add_column("Seeds", justify="right", no_wrap=True)
    judged = _ranks(comparison.preset)
    for line in comparison.tasks:
        grid.add_row(*_cells(line, line.p_adjusted, judged))
    grid.add_section()
    grid.add_row(*_cells(comparison.mean, comparison.mean.p_value, judged))
    title = f"A = {comparison.candidate}, B = {comparison.baseline}, {comparison.preset}"
    lines = [headline(comparison) if judged else RANKS_NOTHING, *_notes(comparison, judged)]
    return titled(title, grid, *lines) if lines else Text(title)


def _ranks(preset: str) -> bool:
    """Whether words may be said; of a preset that is not known, the runs alone decide."""
    from archer.mad.presets import PRESETS

    known = PRESETS.get(preset)
    return known is None or known.ranks


def _cells(line: TaskComparison, p_value: float | None, judged: bool) -> list[str | Text]:
    """One row. Where nothing is ranked there is no word, and no p-value that could be read as one."""
    from rich.text import Text

    from archer.report.numbers import ends, probability, score, signed, word

    more = f" (+{line.more_seeds})" if line.word == "undecided" and line.more_seeds else ""
    style = "dim" if line.no_room == "both" or not judged else STYLES[line.word]
    said = Text(f"{word(line)}{more}" if judged else "not judged", style=style)
    scores = (score(line.candidate, ABSENT), score(line.baseline, ABSENT), signed(line.difference, ABSENT))
    p_text = probability(p_value if judged else None, ABSENT).replace("< ", "<")
    return [line.task, *scores, ends(line, ABSENT).replace(", ", " "), p_text, said, str(line.seeds)]


def _notes(comparison: Comparison, judged: bool) -> list[str]:
    from archer.judge.ceiling import SURE_SEEDS

    lines = (*comparison.tasks, comparison.mean)
    notes = []
    if judged and any(line.may_be_won and line.more_seeds for line in lines):
        notes.append(
            "undecided (+n): about n more seeds would likely decide it. Let --until-decided add them: its "
            "error rate holds over all its looks, the 5% of this table for one look."
        )
    notes += _looked_before(comparison) if judged else []
    full = [line.task for line in comparison.tasks if line.no_room == "both"] if judged else []
    if full:
        notes.append(
            f"No room: both are within the margin of 1 on {', '.join(full)}. Nothing can be better by more, "
            "no test is made, and the interval is what is possible with these scores. Another seed may fall: "
            f"they are the same after {SURE_SEEDS} of which none did (+n)."
        )
    for line in comparison.tasks:
        if 0 < line.exact_settings < line.settings:
            part = f"{line.exact_settings} of {line.settings} settings"
            notes.append(f"{line.task}: one function in {part}, where the difference is exactly zero.")
    notes += _partial(comparison)
    missing = [note for line in comparison.tasks for note in line.missing]
    notes += [f"Missing or failed: {note}." for note in missing[:SHOWN]]
    if len(missing) > SHOWN:
        notes.append(f"Missing or failed: {len(missing) - SHOWN} more of the kind; --json lists them all.")
    return notes


def _looked_before(comparison: Comparison) -> list[str]:
    """Seeds that only some tasks have were most likely added because of what a look at the others said."""
    open_to_noise = [
        line for line in comparison.tasks if line.exact_settings < line.settings and line.no_room != "both"
    ]
    counts = sorted({line.seeds for line in open_to_noise if line.difference is not None})
    if len(counts) < 2:
        return []
    return [
        f"Tasks have {counts[0]} to {counts[-1]} seeds. If some were added after a look at the others, these "
        "words err more often than in 5%: they are not adjusted for looks, as those of --until-decided are."
    ]


def _partial(comparison: Comparison) -> list[str]:
    """Tasks of which not all settings of the preset were trained yet."""
    from archer.mad.presets import PRESETS

    preset = PRESETS.get(comparison.preset)
    planned = [setting.task for setting in preset.settings] if preset else []
    parts = [
        f"{line.task} {line.settings} of {planned.count(line.task)}"
        for line in comparison.tasks
        if 0 < line.settings < planned.count(line.task)
    ]
    if not parts:
        return []
    said = f"Only a part of the settings of {comparison.preset} is there: {', '.join(parts)}."
    return [f"{said} What is said of these tasks, also of their room, is said of that part alone."]


def _noise(comparison: Comparison, floors: dict[str, NoiseFloor]) -> str:
    """What the words rest on, beside the seeds themselves."""
    settings = {line.task: line.settings for line in comparison.tasks}
    known = [
        f"{task} {'≤' if floor.provisional else ''}{floor.score_sd(settings.get(task) or floor.settings):.3f}"
        for task, floor in floors.items()
    ]
    return f"Noise of a score, one seed: {', '.join(known) or 'not known'}"


def _one_seed(comparison: Comparison, floors: dict[str, NoiseFloor]) -> list[str]:
    """With one seed these runs say nothing of their noise: whose noise the intervals take, then."""
    judged = [line for line in comparison.tasks if line.difference is not None and line.no_room != "both"]
    alone = [line.task for line in judged if line.seeds == 1 and line.exact_settings < line.settings]
    sources: dict[str, list[str]] = {}
    for task in alone:
        known = floors[task].source if task in floors else "nothing: no interval"
        sources.setdefault(known, []).append(task)
    if not alone:
        return []
    said = "; ".join(f"{source} ({', '.join(tasks)})" for source, tasks in sources.items())
    return [f"One seed shows no noise of its own. These intervals take it from: {said}."]
