"""`archer mad`: the 66 settings of the six tasks, the presets, and a check of the tasks themselves."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any

import typer

from archer.cli.console import print_json, results
from archer.cli.shared import ABSENT, CsvOption, JsonOption, one_of, plain_table, titled, write_csv
from archer.figures import duration

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

    from archer.mad import CheckRow, Preset, Setting

COLUMNS = ("task", "setting", "vocabulary", "length", "input_length", "train_examples", "noise_vocabulary",
           "noise_fraction", "tokens_to_copy", "key_motif", "value_motif")  # fmt: skip
"""The columns of the CSV form."""

NAMES = (
    "Names: v vocabulary, t length, n training sequences; noise: noise tokens x their share; copy: tokens to "
    "copy; motif: longest key x longest value. Every other setting differs from its task's baseline in one "
    "number."
)
RUNS = "Runs = settings x learning rates x weight decays x seeds, for one rule; epochs at most."
CHECKED = (
    "Solver: score of an exact reader where the inputs determine the target; below 1.000 the task is broken.",
    "Determined: the share of targets for which they do.",
    "Chance: an even guess among the tokens that may stand there.",
    "Time: of drawing the training set, without the cache.",
)


def command(
    check: Annotated[
        bool, typer.Option("--check", help="Draw each task's baseline: solver, chance level, seconds.")
    ] = False,
    task: Annotated[
        str | None, typer.Option("--task", metavar="NAME", help="One task's settings alone.")
    ] = None,
    as_json: JsonOption = False,
    csv: CsvOption = None,
) -> None:
    """The six tasks: settings, presets, and a check.

    All 66 settings, and how many runs a rule costs under each preset.

    With --check every task is drawn and read by its exact solver; exit status 1 where a solver is wrong.

    \b
    Examples: archer mad
              archer mad --check --task "Fuzzy Recall"
    """
    one_of(("--json", as_json), ("--csv", csv is not None))
    if check:
        _check(task, as_json, csv)
        return
    settings = _settings(task)
    if csv is not None:
        write_csv(csv, COLUMNS, [[row[name] for name in COLUMNS] for row in map(_setting_values, settings)])
    elif as_json:
        presets = [_preset_values(preset) for preset in _presets()]
        print_json({"settings": [_setting_values(setting) for setting in settings], "presets": presets})
    else:
        console = results()
        console.print(_settings_table(settings, console), "", _presets_table(console))


def _settings(task: str | None) -> tuple[Setting, ...]:
    from archer.mad import SETTINGS, find_task

    name = find_task(task).name if task is not None else None
    return tuple(setting for setting in SETTINGS if name in (None, setting.task))


def _presets() -> tuple[Preset, ...]:
    from archer.mad import PRESETS

    return tuple(PRESETS.values())


def _setting_values(setting: Setting) -> dict[str, Any]:
    return {**asdict(setting), "setting": setting.name, "input_length": setting.input_length}


def _preset_values(preset: Preset) -> dict[str, Any]:
    settings = [setting.name for setting in preset.settings]
    return {**asdict(preset), "settings": settings, "runs": preset.runs}


def _settings_table(settings: tuple[Setting, ...], console: Console) -> RenderableType:
    from archer.mad import BASELINES

    table = plain_table(console.width)
    table.add_column("Setting", overflow="fold")
    for heading in ("Vocab-\nulary", "Tokens\nread", "Training\nset"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("", no_wrap=True)
    task = settings[0].task
    for setting in settings:
        if setting.task != task:
            task = setting.task
            table.add_section()
        numbers = (setting.vocabulary, setting.input_length, setting.train_examples)
        mark = "baseline" if setting in BASELINES else ""
        table.add_row(setting.name, *(f"{number:,}" for number in numbers), mark)
    tasks = len({setting.task for setting in settings})
    return titled(f"{len(settings)} settings of {tasks} task{'s' * (tasks > 1)}", table, NAMES)


def _presets_table(console: Console) -> RenderableType:
    table = plain_table(console.width)
    table.add_column("Preset", no_wrap=True)
    for heading in ("Settings", "Rates", "Decays", "Seeds", "Runs", "Epochs"):
        table.add_column(heading, justify="right", no_wrap=True)
    table.add_column("What for", overflow="fold")
    for preset in _presets():
        counts = (len(preset.settings), len(preset.learning_rates), len(preset.weight_decays), preset.seeds)
        numbers = (*counts, preset.runs, preset.epochs)
        table.add_row(preset.name, *map(str, numbers), preset.description)
    return titled("Presets: what one rule is trained on", table, RUNS)


def _check(task: str | None, as_json: bool, csv: str | None) -> None:
    from archer.mad import BASELINES, check, find_task

    name = find_task(task).name if task is not None else None
    rows = check(tuple(setting for setting in BASELINES if name in (None, setting.task)))
    if csv is not None:
        columns = ("task", "setting", "solver", "determined", "chance", "seconds")
        write_csv(csv, columns, [[asdict(row)[column] for column in columns] for row in rows])
    elif as_json:
        print_json([asdict(row) for row in rows])
    else:
        console = results()
        console.print(_check_table(rows, console))
    if any(row.solver != 1.0 for row in rows):
        raise typer.Exit(1)


def _check_table(rows: list[CheckRow], console: Console) -> RenderableType:
    from rich.text import Text

    table = plain_table(console.width)
    table.add_column("Task", no_wrap=True)
    for heading in ("Solver", "Determined", "Chance", "Time"):
        table.add_column(heading, justify="right", no_wrap=True)
    if console.width >= 100:
        table.add_column("Setting", overflow="fold")
    for row in rows:
        solver = Text(f"{row.solver:.3f}", style="green" if row.solver == 1.0 else "bold red")
        determined = f"{row.determined:.1%}" if row.determined < 1 else "all"
        cells = (row.task, solver, determined, f"{row.chance:.3f}", duration(row.seconds, ABSENT))
        table.add_row(*cells, *((row.setting,) if console.width >= 100 else ()))
    return titled("Each task's baseline, drawn and read by its exact solver", table, *CHECKED)
