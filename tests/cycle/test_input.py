"""Wrong input, through the real command: one message that says where, status 2, and nothing written."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.cli.program import refusal
from tests.cycle.tiny import LEAKING_RULE, THIEVING_RULE, finish

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
}


@pytest.mark.parametrize("case", WRONG_WORDS)
def test_wrong_words_are_refused(case: str, tmp_path: Path) -> None:
    files = {"LEAKS": ("leaks.py", LEAKING_RULE), "THIEF": ("thief.py", THIEVING_RULE)}
    files["TAKEN"] = ("softmax.py", LEAKING_RULE)
    for name, text in files.values():
        (tmp_path / name).write_text(text)
    words, expected = WRONG_WORDS[case]
    command, *rest = (tmp_path / files[word][0] if word in files else word for word in words)
    message = refusal(command, *rest, "--project", tmp_path / "project")
    assert message.count("error:") == 1
    for text in expected:
        assert text in message
    assert not (tmp_path / "project").exists()


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
