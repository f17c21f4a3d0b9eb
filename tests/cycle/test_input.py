"""Wrong input, through the real command: one message that says where, status 2, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.program import refusal
from tests.cycle.test_plan import MIXER
from tests.cycle.tiny import LEAKING_RULE, THIEVING_RULE, finish

import archer
from archer.errors import UserError

TABLE = """Model,Compress,Context Recall,Fuzzy Recall,Memorize,Noisy Recall,Selective Copy
delta_net_4layer,0.4,0.9,0.1,0.4,0.9,0.8
gated_delta_net_4layer,0.5,0.9,0.2,0.6,0.9,0.9
"""


def changed(old: str, new: str) -> str:
    assert old in TABLE
    return TABLE.replace(old, new)


WRONG_TABLES = {
    "a missing task column": (changed(",Memorize", "").replace(",0.4,0.9,0.8", ",0.9,0.8"), ["Memorize"]),
    "text in a number": (changed("0.2,0.6", "0.2,high"), ["line 3", "Memorize", "high"]),
    "a value above 1": (changed("0.1,0.4", "1.1,0.4"), ["line 2", "Fuzzy Recall", "1.1"]),
    "a value below 0": (changed("0.5,0.9,0.2", "-0.5,0.9,0.2"), ["line 3", "Compress", "-0.5"]),
    "the same model twice": (TABLE + "delta_net_4layer,0.5,0.9,0.1,0.4,0.9,0.8\n", ["delta_net_4layer"]),
    "an empty file": ("", ["empty"]),
    "no table": ("Dear reader,\n\nthis is a letter.\n", []),
    "no reference": (changed("gated_delta_net_4layer", "another"), ["gated_delta_net"]),
}


@pytest.mark.parametrize("case", WRONG_TABLES)
def test_a_wrong_history_table_is_refused(case: str, tmp_path: Path) -> None:
    text, expected = WRONG_TABLES[case]
    path = tmp_path / "history.csv"
    path.write_text(text)
    message = refusal("run", "--history", path, "--project", tmp_path / "project")
    assert message.count("error:") == 1
    for words in ("history.csv", *expected):
        assert words in message
    assert [entry.name for entry in tmp_path.iterdir()] == ["history.csv"]


WRONG_WORDS: dict[str, tuple[tuple[object, ...], list[str]]] = {
    "unknown rule": (("bench", "delta_nett"), ["unknown rule 'delta_nett'", "did you mean 'delta_net'"]),
    "unknown reference": (
        ("bench", "softmax", "--reference", "gated_delta"),
        ["did you mean 'gated_delta_net'"],
    ),
    "unknown preset": (("run", "--preset", "smokey"), ["unknown preset 'smokey'", "did you mean 'smoke'"]),
    "preset of bench": (("bench", "softmax", "--preset", "ful"), ["did you mean 'full'"]),
    "preset of try": (("try", "LEAKS", "--preset", "quik"), ["did you mean 'quick'"]),
    "no such history": (("run", "--history", "absent.csv"), ["absent.csv"]),
    "no such rule file": (("try", "absent.py"), ["absent.py"]),
    "no rule file": (("bench", "absent.py"), ["absent.py"]),
    "a rule that opens a file": (("try", "THIEF"), ["thief.py", "open"]),
    "the same in a bench": (("bench", "THIEF"), ["thief.py", "open"]),
    "a name that is taken": (("try", "TAKEN"), ["softmax", "rename the file"]),
    "an argument without a value": (("bench", "softmax", "--argument", "heads"), ["heads=4"]),
    "no such device": (("run", "--device", "gpu"), ["no device 'gpu'", "cpu"]),
    "no published data": (("run", "--data", "absent"), ["absent"]),
    "a width that is none": (("bench", "softmax", "--width", -3), ["--width -3", "2 heads"]),
    "a width that heads do not share": (("bench", "softmax", "--width", 33), ["--width 33", "2 heads"]),
    "a width in words": (("bench", "softmax", "--width", "wide"), ["--width", "archer bench --help"]),
    "no seed at all": (("run", "--until-decided", "--max-seeds", 0), ["--max-seeds", "archer run --help"]),
    "seeds without end": (("run", "--until-decided", "--max-seeds", 10**8), ["expected 1 to 999"]),
    "seeds of nothing": (("discover", "--cycles", 1, "--max-seeds", 3), ["No such option: --max-seeds"]),
    "a seed below zero": (("run", "--seed", -1), ["seed is -1", "0 or more"]),
    "the same for a campaign": (("discover", "--cycles", 1, "--seed", -1), ["seed is -1"]),
    "a race over everything": (("bench", "softmax", "--preset", "full", "--race"), ["leave out --race"]),
    "a race up to everything": (("discover", "--cycles", 1, "--preset", "full", "--race"), ["leave out"]),
    "a budget that is spent": (("run", "--budget-seconds", 0), ["--budget-seconds is 0.0", "above 0"]),
    "a budget without end": (("run", "--budget-seconds", "nan"), ["--budget-seconds is nan"]),
    "a campaign without end": (("discover",), ["needs an end", "--cycles 10"]),
    "GPU hours without a GPU": (("discover", "--max-gpu-hours", 1, "--device", "cpu"), ["never end"]),
    "no GPU hours": (("discover", "--cycles", 1, "--max-gpu-hours", 0), ["max_gpu_hours is 0.0"]),
    "hours back": (("discover", "--hours", -1), ["hours is -1.0", "above 0"]),
    "no candidates": (("discover", "--cycles", 0), ["--cycles", "archer discover --help"]),
    "all to luck and more": (("discover", "--cycles", 1, "--share", 2), ["--share"]),
    "an unknown rung": (("discover", "--cycles", 1, "--preset", "quick,ful"), ["did you mean 'full'"]),
    "a rung twice": (("discover", "--cycles", 1, "--preset", "smoke,smoke"), ["different presets"]),
    "a history that is none": (("discover", "--cycles", 1, "--history", "TAKEN"), ["softmax.py"]),
    "no published data on a rung": (("discover", "--cycles", 1, "--data", "absent"), ["absent"]),
    "a model that is none": (("discover", "--cycles", 1, "--model", "gpt"), ["expected provider:name"]),
    "a parent that is no text": (("try", "UNQUOTED"), ["unquoted.py, line 2", "`name`"]),
    "the same where it is trusted": (("try", "UNQUOTED", "--trust"), ["unquoted.py, line 2", "`name`"]),
    "rules that were never measured": (("compare", "softmax", "hybrid"), ["archer run"]),
    "no device for agents": (("mcp", "--device", "gpu"), ["no device 'gpu'"]),
    "decoding of nothing": (("report", "--decoding"), ["archer run"]),
}


@pytest.mark.parametrize("case", WRONG_WORDS)
def test_wrong_words_are_refused(case: str, tmp_path: Path) -> None:
    files = {"LEAKS": ("leaks.py", LEAKING_RULE), "THIEF": ("thief.py", THIEVING_RULE)}
    files["TAKEN"] = ("softmax.py", LEAKING_RULE)
    files["UNQUOTED"] = ("unquoted.py", '"""A."""\nparent = name\n')
    for name, text in files.values():
        (tmp_path / name).write_text(text)
    words, expected = WRONG_WORDS[case]
    command, *rest = (tmp_path / files[str(word)][0] if word in files else word for word in words)
    message = refusal(command, *rest, "--project", tmp_path / "project")
    assert message.startswith("error:")
    assert message.count("\n") == 1
    for text in expected:
        assert text in message
    assert not (tmp_path / "project").exists()


@pytest.mark.parametrize("words", [("run", "-p"), ("discover", "--cycles", 1, "-p")])
def test_a_project_that_is_a_file_is_refused(words: tuple[object, ...], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("mine")
    assert "error:" in refusal(*words, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "mine"


def test_a_folder_of_results_that_is_not_there_is_refused(tmp_path: Path) -> None:
    message = refusal("doctor", "--presets", "--results", tmp_path / "absent")
    assert "absent" in message
    assert message.count("\n") == 1


def test_a_right_table_would_be_read(tmp_path: Path) -> None:
    """The tables above are wrong in one thing only: without it the next mistake is found."""
    path = tmp_path / "history.csv"
    path.write_text(TABLE)
    message = refusal("run", "--history", path, "--device", "gpu", "--project", tmp_path / "project")
    assert "no device 'gpu'" in message


def test_a_leaking_rule_ends_with_status_3(tmp_path: Path) -> None:
    (tmp_path / "leaks.py").write_text(LEAKING_RULE)
    ended = finish("try", "leaks.py", "--preset", "tiny", folder=tmp_path)
    assert ended.returncode == 3, ended.stderr
    assert "No proposal passed verification" in ended.stdout
    assert "causality" in ended.stdout
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (("Averagin",), "did you mean 'Averaging'"),
        (("Averaging", "--argument", "heads=4"), "unexpected keyword argument 'heads'"),
        (("Averaging", "--argument", "width=32"), "multiple values for argument 'width'"),
    ],
)
def test_a_module_that_cannot_be_built_is_refused(
    words: tuple[str, ...], expected: str, tmp_path: Path
) -> None:
    """Before anything is trained, in one line."""
    path = tmp_path / "mixer.py"
    path.write_text(MIXER)
    message = refusal("bench", f"{path}:{words[0]}", *words[1:], "--project", tmp_path / "project")
    assert expected in message
    assert message.count("\n") == 1
    assert not (tmp_path / "project").exists()


def test_a_name_where_a_list_of_rules_is_wanted_is_said_to_be_one(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"got the text 'delta_net'; write \['delta_net'\]"):
        archer.bench("delta_net", tmp_path / "project")
    assert not (tmp_path / "project").exists()
