"""A text is executed as Python executes a module that it imports."""

from __future__ import annotations

import inspect
import sys

import pytest

from archer.rules.executed import executed

TEXT = """from __future__ import annotations
from dataclasses import dataclass

@dataclass
class Size:
    width: int

def double(size: Size) -> Size:
    return Size(2 * size.width)
"""


def test_its_names_its_lines_and_its_place_among_the_modules():
    names = executed(TEXT, "of_a_test", "<of a test>")
    assert names["double"](names["Size"](3)) == names["Size"](6)
    assert inspect.getsource(names["double"]).splitlines()[-1] == "    return Size(2 * size.width)"
    assert sys.modules["of_a_test"].__dict__ is names


@pytest.mark.parametrize(
    ("text", "kind"), [("1 / 0", ZeroDivisionError), ("def", SyntaxError), ("raise SystemExit", SystemExit)]
)
def test_of_a_text_that_fails_nothing_stays_loaded(text: str, kind: type[BaseException]):
    with pytest.raises(kind):
        executed(text, "of_a_failing_test", "<of a failing test>")
    assert "of_a_failing_test" not in sys.modules
