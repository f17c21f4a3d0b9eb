"""The command line as a person meets it: the real program, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import textwrap
from dataclasses import asdict
from importlib import import_module
from pathlib import Path

import pytest

from archer import __version__
from archer.cli import COMMANDS
from archer.cli.console import print_json
from archer.errors import UserError, unknown
from archer.verify.contain import walls

# What the terminal of whoever runs the tests says about width and colour is left out.
ENVIRONMENT = {k: v for k, v in os.environ.items() if k not in {"COLUMNS", "FORCE_COLOR", "NO_COLOR"}}


def archer(*arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run `python -m archer`."""
    environment = {**ENVIRONMENT, "COLUMNS": "120", **variables}
    asked = [sys.executable, "-m", "archer", *arguments]
    return subprocess.run(asked, capture_output=True, text=True, env=environment, check=False, timeout=120)


def script(body: str) -> list[str]:
    """A program: the command line with one more command, `probe`, whose body is given."""
    module = textwrap.indent(textwrap.dedent(body), "    ")
    code = (
        "import sys, types, archer.cli\n"
        f"def command() -> None:\n    '''Probe.'''\n{module}\n"
        "probe = types.ModuleType('probe'); probe.command = command; sys.modules['probe'] = probe\n"
        "archer.cli.COMMANDS['probe'] = 'probe'\n"
        "sys.argv = ['archer', 'probe']\n"
        "archer.cli.main()\n"
    )
    return [sys.executable, "-c", code]


def probe(body: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        script(body), capture_output=True, text=True, env=ENVIRONMENT, check=False, timeout=120
    )


def test_help_names_every_command_and_the_exit_statuses() -> None:
    ended = archer("--help")
    assert ended.returncode == 0
    assert all(re.search(rf"^\W*{name}\b", ended.stdout, re.MULTILINE) for name in COMMANDS)
    words = " ".join(ended.stdout.split())
    assert "0 finished" in words
    assert "2 wrong input" in words
    assert "130 interrupted" in words


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(name: str) -> None:
    ended = archer(name, "--help")
    assert ended.returncode == 0
    assert f"archer {name}" in ended.stdout.split("Usage:")[1].partition("\n")[2]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_help_page_says_what_is_taken_and_not_of_which_type(name: str) -> None:
    page = archer(name, "--help").stdout
    assert re.findall(r"^ +(?:-\w, )?(\S+) <", page, re.MULTILINE) == []
    usage = page.partition("\n")[0]
    assert re.findall(r"[{}<>]", usage) == []
    for argument in re.findall(r"\S+", usage.partition("[OPTIONS]")[2]):
        taken = argument.removesuffix("...").strip("[]" if argument.startswith("[") else "")
        assert re.search(rf"^  {re.escape(taken)}  \S", page, re.MULTILINE), taken


@pytest.mark.parametrize("name", COMMANDS)
def test_loading_a_command_is_light(name: str) -> None:
    heavy = {"torch", "pandas", "plotly", "scipy", "sqlalchemy", "statsmodels"}
    code = f"import sys, {COMMANDS[name]}; print(sorted({heavy!r} & set(sys.modules)))"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "[]"


def test_version() -> None:
    ended = archer("--version")
    assert (ended.returncode, ended.stdout) == (0, f"archer {__version__}\n")


def test_the_version_is_the_distribution_s() -> None:
    metadata = Path(__file__).parents[2] / "pyproject.toml"
    assert f'\nversion = "{__version__}"\n' in metadata.read_text()


def test_the_installed_program_is_the_module() -> None:
    program = Path(sys.executable).with_name("archer")
    ended = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=True)
    assert ended.stdout == f"archer {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "words"),
    [(["doctr"], "doctor"), (["doctor", "--jsn"], "--json"), (["doctor", "surplus"], "surplus")],
)
def test_wrong_usage_says_what_was_meant(arguments: list[str], words: str) -> None:
    ended = archer(*arguments)
    assert ended.returncode == 2
    assert words in ended.stderr
    assert "Traceback" not in ended.stderr


def test_a_user_error_is_one_message_without_a_traceback() -> None:
    ended = probe("""
        from archer.errors import UserError
        raise UserError("table.csv, row 3, column 'Memorize': [red]1.7[/red] is above 1")
    """)
    assert ended.returncode == 2
    assert ended.stdout == ""
    assert ended.stderr == "error: table.csv, row 3, column 'Memorize': [red]1.7[/red] is above 1\n"


def test_a_long_message_is_not_broken_into_lines() -> None:
    ended = probe("from archer.errors import UserError\nraise UserError('word ' * 100)")
    assert ended.stderr.count("\n") == 1


def test_a_room_s_own_kind_of_value_error_is_for_the_user_too() -> None:
    ended = probe("""
        class TableError(ValueError):
            __module__ = "archer.ledger.problems"
        raise TableError("row 3 is empty")
    """)
    assert (ended.returncode, ended.stderr) == (2, "error: row 3 is empty\n")


def test_a_value_error_of_someone_else_is_our_mistake() -> None:
    ended = probe("import json\njson.loads('{')")
    assert ended.returncode == 1
    assert ended.stderr.startswith("Traceback")


def test_our_own_mistake_shows_a_traceback() -> None:
    ended = probe("raise ValueError('our own mistake')")
    assert ended.returncode == 1
    assert ended.stderr.startswith("Traceback")
    assert ended.stderr.endswith("ValueError: our own mistake\n")


def test_an_interrupt_says_that_the_same_command_continues() -> None:
    body = "import sys, time\nprint('ready', flush=True)\ntime.sleep(60)"
    with subprocess.Popen(script(body), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        assert running.stdout.readline() == "ready\n"
        running.send_signal(signal.SIGINT)
        _, errors = running.communicate(timeout=60)
    assert running.returncode == 130
    assert errors == "interrupted; the same command continues\n"


def test_colour_only_for_a_terminal_that_wants_it() -> None:
    body = "from archer.cli.console import results\nresults().print('[red]x[/red]')"
    assert probe(body).stdout == "x\n"


def test_a_piped_table_keeps_its_columns() -> None:
    body = "from archer.cli.console import results\nresults().print('x' * 150)"
    assert probe(body).stdout == "x" * 150 + "\n"


def test_a_piped_line_of_progress_is_not_broken() -> None:
    ended = probe("""
        from archer.cli.progress import LiveWatcher
        with LiveWatcher() as watcher:
            watcher.phase("history", "word " * 60)
            watcher.note("word " * 60)
    """)
    assert [len(line.split()) for line in ended.stderr.splitlines()] == [63, 60]


def test_names_out_of_a_training_are_no_markup() -> None:
    """A module is named by its author, and the lines of a training name it."""
    ended = probe("""
        from archer.cli.progress import LiveWatcher
        with LiveWatcher() as watcher:
            watcher.training(1, 0)
            watcher.event({"event": "fleet", "device": "cpu", "subject": "[/x]", "settings": ["[/y]"],
                           "members": 1, "epochs": 1, "parameters": 1, "ages": {}})
            watcher.event({"event": "epoch", "device": "cpu", "epoch": 1, "ages": {}, "best": {"[/z]": 0.5}})
            watcher.bars.refresh()
    """)
    assert (ended.returncode, ended.stderr.count("Error")) == (0, 0)


def test_json_has_no_nan() -> None:
    with pytest.raises(ValueError, match="not JSON compliant"):
        print_json({"score": float("nan")})


def test_unknown_gives_the_nearest_and_the_choices() -> None:
    error = unknown("rule", "Delta_nett", ["softmax", "delta_net"])
    assert isinstance(error, UserError)
    assert str(error) == "unknown rule 'Delta_nett': did you mean 'delta_net'? Choices: delta_net, softmax"
    assert str(unknown("rule", "zzz", ["softmax"])) == "unknown rule 'zzz'. Choices: softmax"
    assert str(unknown("rule", "zzz", [])) == "unknown rule 'zzz'. There is no rule to choose from"


def test_every_command_module_has_a_command() -> None:
    assert all(callable(import_module(module).command) for module in COMMANDS.values())


def test_doctor_prints_json_and_nothing_else(tmp_path: Path) -> None:
    ended = archer("doctor", "--json", "--project", str(tmp_path / "not" / "yet"))
    machine = json.loads(ended.stdout)
    assert ended.returncode == 0
    assert machine["used"] == machine["devices"][0]["kind"]
    assert machine["cores"] >= 1
    assert machine["project"]["exists"] is False
    assert machine["project"]["free_bytes"] > 0
    assert machine["walls"] == [asdict(wall) for wall in walls()], "those of a contained process, as tried"
    assert not (tmp_path / "not").exists()


def test_doctor_prints_a_table(tmp_path: Path) -> None:
    ended = archer("doctor", "--project", str(tmp_path))
    assert ended.returncode == 0
    assert "← used" in ended.stdout
    assert str(tmp_path) in ended.stdout
    assert re.search(r"wall: limits +up \(.* CPU seconds", ended.stdout)


def test_doctor_refuses_a_file_for_a_folder(tmp_path: Path) -> None:
    file = tmp_path / "file"
    file.write_text("")
    ended = archer("doctor", "--project", str(file))
    assert ended.returncode == 2
    assert ended.stderr.startswith("error: --project: ")


def test_doctor_says_what_is_wrong_when_torch_cannot_be_used(tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("raise OSError('libcuda is broken')")
    ended = archer("doctor", "--json", PYTHONPATH=str(tmp_path))
    assert ended.returncode == 1
    assert json.loads(ended.stdout)["problems"] == ["torch cannot be used: libcuda is broken"]
