"""What a check finds, and the clock and the net around it."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import FrameType
from typing import Any

from torch import Tensor

from archer.rules.rule import RuleError
from archer.verify.result import CheckResult


@dataclass(frozen=True)
class Finding:
    """The outcome of one check. case: the smallest input that fails, in words."""

    passed: bool
    message: str
    case: str = ""


@dataclass(frozen=True)
class Check:
    """One check. sentence: what it proves. find: takes a candidate (and what else the check needs)."""

    name: str
    sentence: str
    find: Callable[..., Finding]

    def run(self, *arguments: Any) -> CheckResult:
        """Finds out. An exception out of the candidate's code is a failure of this check, with its words."""
        started = time.perf_counter()
        try:
            finding = self.find(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever a stranger's code raises is a finding
            finding = Finding(False, raised(error))
        seconds = time.perf_counter() - started
        return CheckResult(self.name, finding.passed, finding.message[:2000], seconds, finding.case[:500])


def check(name: str, sentence: str) -> Callable[[Callable[..., Finding]], Check]:
    """Makes a check of a function."""
    return lambda find: Check(name, sentence, find)


RAISED = "its code raised "


def raised(error: Exception) -> str:
    """The sentence for an exception out of a candidate's code, with the line of the candidate. What Archer
    itself says of a rule is said as it is."""
    where = _where(error)
    said = f"{RAISED}{type(error).__name__}: {_first_line(error)}"
    if isinstance(error, RuleError):
        said = re.sub(r"^rule \S+: ", "", str(error))
    return f"{said} ({where})" if where else said


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return text.splitlines()[0][:300] if text else "without a message"


def _where(error: Exception) -> str:
    """The last line of the candidate's own text that the exception passed through, and the tensors that its
    function was given there, by the axes that its author sees."""
    trace, line = error.__traceback__, ""
    while trace is not None:
        if trace.tb_frame.f_code.co_filename.startswith("<"):
            line = f"line {trace.tb_lineno} of the candidate, in `{trace.tb_frame.f_code.co_name}`"
            line += _given(trace.tb_frame)
        trace = trace.tb_next
    return line


def _given(frame: FrameType) -> str:
    code = frame.f_code
    values = {name: frame.f_locals.get(name) for name in code.co_varnames[: code.co_argcount]}
    shapes = [f"{n} {list(x.shape[-2:])}" for n, x in values.items() if isinstance(x, Tensor)]
    return f", given {', '.join(shapes)}" if shapes else ""
