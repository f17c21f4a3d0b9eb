"""Numbers that people read are written in one way."""

from __future__ import annotations

import ast
import math
from pathlib import Path

import pytest

import archer
from archer.figures import duration, signed

SOURCE = Path(archer.__file__).parent


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (0, "0 s"),
        (0.012, "< 0.1 s"),
        (0.05, "0.1 s"),
        (0.42, "0.4 s"),
        (3.04, "3 s"),
        (9.94, "9.9 s"),
        (9.96, "10 s"),
        (32.76, "33 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (504, "8.4 min"),
        (3569, "59 min"),
        (3571, "1 h"),
        (5760, "1.6 h"),
        (104 * 3600, "104 h"),
        (1234 * 3600, "1,234 h"),
        (-3, "−3 s"),
        (None, "–"),
        (math.nan, "–"),
        (math.inf, "–"),
    ],
)
def test_a_duration_is_said_as_a_person_says_it(seconds, words):
    assert duration(seconds, "–") == words


def test_a_duration_takes_the_words_of_a_language():
    units = ("秒", "分钟", "小时")
    assert [duration(x, "–", units) for x in (0.01, 33, 504, 5760)] == [
        "< 0.1 秒", "33 秒", "8.4 分钟", "1.6 小时",
    ]  # fmt: skip


def test_a_difference_has_a_minus_and_as_many_decimals_as_asked_for():
    assert [signed(x, "–") for x in (0.0123, -0.0123, -0.0001, None, math.nan)] == [
        "+0.012", "\u22120.012", "0.000", "–", "–",
    ]  # fmt: skip
    assert (signed(-0.567, "", decimals=2), signed(-12.0, "", decimals=0)) == ("\u22120.57", "\u221212")


def test_nobody_writes_a_sign_on_their_own():
    """But for a model's prompt, which keeps the hyphen, and a correlation, whose 0 has a sign too (+0.00)."""
    found = {
        str(path.relative_to(SOURCE))
        for path in SOURCE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.FormattedValue) and node.format_spec
        if "+" in ast.unparse(node.format_spec)
    }
    assert found == {"report/agreement.py", "research/prompt.py"}
