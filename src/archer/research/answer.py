"""From a model's words to a rule file and predictions: forgiving about form, strict about content.

Whatever is wrong is said in one sentence that can go back to the model (`Complaint`).
"""

from __future__ import annotations

import ast
import json
import re
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from archer.ledger.records import TASKS, Prediction
from archer.research.researcher import Context
from archer.research.rule_text import RULE_IMPORTS, SlotText, read_rule, write_rule_file
from archer.rules.rule import SLOTS

CHANGEABLE = (*SLOTS, "step")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,59}")
LONGEST_CODE = 20_000


class Complaint(Exception):  # noqa: N818
    """What is wrong with an answer, in a sentence for whoever gave it. kind: what is counted."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind
        self.message = message


class Answer(BaseModel):
    """The JSON object that a model answers with."""

    model_config = ConfigDict(extra="ignore")

    parent: str
    slot: str
    name: str
    code: str = Field(min_length=1, max_length=LONGEST_CODE)
    title: str = ""
    equation: str = ""
    insights: str = ""
    issue: str = ""
    reasoning: str = ""
    lessons: str = ""
    per_task: dict[str, str] = Field(default_factory=dict)
    predictions: dict[str, tuple[float, float, float]] = Field(default_factory=dict)
    cites: list[str] = Field(default_factory=list)


@dataclass(frozen=True)
class Draft:
    """An answer that makes sense: a rule file that is yet to be verified."""

    answer: Answer
    source: str
    predictions: tuple[Prediction, ...]


def read_answer(text: str, context: Context) -> Draft:
    """Raises Complaint where the words hold no usable proposal."""
    found = _object(text)
    try:
        answer = Answer.model_validate(found)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, first["loc"])) or "the answer"
        raise Complaint(
            "invalid", f"The JSON is not of the form asked for: {place}: {first['msg']}."
        ) from error
    _check_names(answer, context)
    code = strip_prose(answer.code, answer.slot)
    return Draft(answer, _rule_file(answer, code), _predictions(answer))


def _object(text: str) -> Any:
    """The first JSON object in some text, whatever stands around it."""
    decoder = json.JSONDecoder(strict=False)
    for match in re.finditer(r"\{", text):
        try:
            found, _ = decoder.raw_decode(text, match.start())
        except json.JSONDecodeError:
            continue
        if isinstance(found, dict) and ("code" in found or "slot" in found):
            return found
    if re.search(r"\b(I'm sorry|I am sorry|I cannot|I can't|unable to)\b", text) and "{" not in text:
        raise Complaint("refused", "This is harmless research on small models; answer with the JSON object.")
    raise Complaint(
        "invalid", "No JSON object with `code` was found; answer with one JSON object and nothing else."
    )


def _check_names(answer: Answer, context: Context) -> None:
    if answer.parent not in context.sources:
        near = ", ".join(sorted(context.sources))
        raise Complaint("invalid", f"There is no rule '{answer.parent}'; the parent is one of {near}.")
    if answer.slot not in CHANGEABLE:
        raise Complaint("invalid", f"There is no slot '{answer.slot}'; it is one of {', '.join(CHANGEABLE)}.")
    if not NAME.fullmatch(answer.name):
        raise Complaint("invalid", "The name must be a letter, then letters, digits or _, at most 60.")


def strip_prose(code: str, slot: str) -> str:
    """The Python in a text: what stands in a fence, or the longest stretch of lines that is Python.

    Raises Complaint where none defines the slot.
    """
    fenced = re.findall(r"```(?:python|py)?[ \t]*\n(.*?)(?:```|\Z)", code, re.DOTALL)
    for candidate in sorted(fenced, key=lambda block: f"def {slot}" not in block) or [code]:
        if _parses(candidate):
            return candidate
    lines = code.splitlines()
    stretches = ((first, last) for first in range(len(lines)) for last in range(len(lines), first, -1))
    for first, last in sorted(stretches, key=lambda ends: ends[0] - ends[1])[:5_000]:
        part = "\n".join(lines[first:last])
        if f"def {slot}" in part and _parses(part):
            return part
    raise Complaint("invalid", f"The code is not Python: {_syntax_problem(code)}.")


def _parses(text: str) -> bool:
    return _syntax_problem(text) == ""


def _syntax_problem(text: str) -> str:
    try:
        ast.parse(text)
    except (SyntaxError, ValueError) as error:
        return f"line {getattr(error, 'lineno', '?')}: {getattr(error, 'msg', error)}"
    return ""


def _rule_file(answer: Answer, code: str) -> str:
    """A whole rule file. Raises Complaint where another function than the slot was written."""
    rule = read_rule(code, answer.name)
    if answer.slot not in rule.functions:
        found = ", ".join(f"`{name}`" for name in (*rule.functions, *rule.helpers)) or "no function"
        raise Complaint(
            "wrong function", f"You said that you change `{answer.slot}`, but the code defines {found}."
        )
    if len(rule.functions) > 1:
        names = " and ".join(f"`{name}`" for name in rule.functions)
        raise Complaint("wrong function", f"One slot may change; the code defines {names}.")
    imports = tuple(line for name, line in rule.imports.items() if name not in RULE_IMPORTS)
    if "torch." in code and "import torch" not in imports:
        imports = ("import torch", *imports)
    part = SlotText(answer.slot, rule.functions[answer.slot], rule.declared, rule.helpers, imports)
    title = _one_line(answer.title) or f"{answer.slot} of {answer.parent}, changed"
    equation = _one_line(answer.equation)
    return write_rule_file(part, answer.parent, f"{title}.\n\n    {equation}\n" if equation else f"{title}.")


def _one_line(text: str) -> str:
    """Text that cannot end the docstring that it stands in."""
    return " ".join(text.replace("\\", " ").replace('"', "'").split()).rstrip(".")[:200]


def _predictions(answer: Answer) -> tuple[Prediction, ...]:
    """One for each task; a model that orders an interval wrongly is put right, one outside 0 to 1 is
    refused."""
    missing = [task for task in TASKS if task not in answer.predictions]
    if missing:
        raise Complaint(
            "invalid", f"predictions lack {', '.join(missing)}; give [score, low, high] for each task."
        )
    made = []
    for task in TASKS:
        low, score, high = sorted(answer.predictions[task])
        if not (low >= 0 and high <= 1):
            raise Complaint("invalid", f"predictions for {task} lie outside 0 to 1; scores are fractions.")
        made.append(Prediction(task, score, low, high))
    return tuple(made)
