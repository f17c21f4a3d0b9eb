"""From a model's words to a rule file and predictions: forgiving about form, strict about content.

Whatever is wrong is said in one sentence that can go back to the model (`Complaint`).
"""

from __future__ import annotations

import ast
import itertools
import json
import re
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from archer.ledger.records import TASKS, Prediction
from archer.research.researcher import Context
from archer.research.rule_text import RULE_IMPORTS, SlotText, read_rule, write_rule_file
from archer.rules.rule import SLOTS

CHANGEABLE = (*SLOTS, "step")
NAME = re.compile(r"[A-Za-z][A-Za-z0-9_]{0,59}")
LONGEST_CODE = 20_000
LONGEST_PROBLEMS = 600
"""Characters that say what is wrong with the form of an answer."""

MOST_BRACES = 2_000
"""How many places of a text are tried when an object is looked for."""

LONGEST_HEAD, LONGEST_FUNCTION, MOST_STRETCHES = 20, 100, 400
"""When Python is looked for in prose: lines before a function that may belong to it, lines of the function,
and pieces tried."""

BEGINS_PYTHON = re.compile(r"@|#|(def|import|from)\b|\w+ *=")

BEGINS_OBJECT = re.compile(r"\{\s*([\"'}]|\w+\s*:)")
"""A brace that begins an object, not the {t-1} of an equation."""

REFUSES = re.compile(r"\b((I'm|I am) sorry[,.]? (but|I)|I cannot|I can't|(I'm|I am) unable to)\b")
"""How a refusal begins. Small models are sorry about anything, and call other things unable."""


class Complaint(Exception):  # noqa: N818
    """What is wrong with an answer, in a sentence for whoever gave it. kind: what is counted."""

    def __init__(self, kind: str, message: str):
        super().__init__(message)
        self.kind = kind
        self.message = message


class Answer(BaseModel):
    """The JSON object that a model answers with. Words may come as lists, predictions as objects; a number
    that is none (NaN) may not."""

    model_config = ConfigDict(extra="ignore", allow_inf_nan=False)

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

    @field_validator("title", "equation", "insights", "issue", "reasoning", "lessons", mode="before")
    @classmethod
    def _any_words(cls, value: Any) -> str:
        return _words(value)

    @field_validator("code", mode="before")
    @classmethod
    def _lines_of_code(cls, value: Any) -> Any:
        is_lines = isinstance(value, list) and all(isinstance(line, str) for line in value)
        return "\n".join(value) if is_lines else value

    @field_validator("per_task", mode="before")
    @classmethod
    def _words_of_tasks(cls, value: Any) -> dict[str, str]:
        return {_task(key): _words(words) for key, words in value.items()} if isinstance(value, dict) else {}

    @field_validator("cites", mode="before")
    @classmethod
    def _ids(cls, value: Any) -> list[str]:
        return [_words(cite) for cite in (value if isinstance(value, list) else [value])]

    @field_validator("predictions", mode="before")
    @classmethod
    def _triples(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {_task(key): _triple(numbers) for key, numbers in value.items()}


def _words(value: Any) -> str:
    """Whatever was given where a sentence was asked for; halves of characters become question marks."""
    if isinstance(value, list):
        return " ".join(map(_words, value))
    return "" if value is None else str(value).encode("utf-8", "replace").decode("utf-8")


def _task(name: Any) -> str:
    """A task's own name, whatever its case and joints: `context_recall` is Context Recall."""
    plain = re.sub(r"[\W_]+", " ", str(name)).strip().lower()
    return next((task for task in TASKS if task.lower() == plain), _words(name))


def _triple(numbers: Any) -> Any:
    named = isinstance(numbers, dict) and {"score", "low", "high"} <= numbers.keys()
    return [numbers[key] for key in ("score", "low", "high")] if named else numbers


@dataclass(frozen=True)
class Draft:
    """An answer that makes sense: a rule file that is yet to be verified."""

    answer: Answer
    source: str
    predictions: tuple[Prediction, ...]


def read_answer(text: str, context: Context) -> Draft:
    """Raises Complaint where the words hold no usable proposal. Python's warnings about code are silenced."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", SyntaxWarning)
        warnings.simplefilter("ignore", DeprecationWarning)
        return _read(text, context)


def _read(text: str, context: Context) -> Draft:
    found = _object(text)
    try:
        answer = Answer.model_validate(found)
    except ValidationError as error:
        raise Complaint(
            "invalid", f"The JSON is not of the form asked for: {_form_problems(error)}."
        ) from error
    _check_names(answer, context)
    code = strip_prose(answer.code, answer.slot)
    return Draft(answer, _rule_file(answer, code), _predictions(answer))


def _form_problems(error: ValidationError) -> str:
    """What is wrong with an object, all of it at once: an answer goes back only a few times."""
    found: dict[str, list[str]] = {}
    for problem in error.errors(include_url=False, include_input=False):
        place = ".".join(map(str, problem["loc"])) or "the answer"
        found.setdefault(problem["msg"], []).append(place)
    said = "; ".join(f"{', '.join(places)}: {message}" for message, places in found.items())
    return said[:LONGEST_PROBLEMS]


def _object(text: str) -> Any:
    """The first JSON object with code in some text, whatever stands around it.

    Thoughts in <think> are passed over. Where no object is whole, commas before an end are left out and what
    was left open is closed; Python's way of writing an object is read too.
    """
    said = re.sub(r"<think>.*?</think>", "", text, flags=re.DOTALL)
    starts = [match.start() for match in re.finditer(r"\{", said)][:MOST_BRACES]
    begun = BEGINS_OBJECT.search(said)
    firsts = [begun.start()] if begun else []
    for read in (_strictly, _mended, _as_python):
        for start in starts if read is _strictly else firsts:
            found = read(said[start:])
            if isinstance(found, dict) and ("code" in found or "slot" in found):
                return found
    if REFUSES.search(said) and not begun:
        raise Complaint("refused", "This is harmless research on small models; answer with the JSON object.")
    where = f": {_json_problem(said[begun.start() :])}" if begun else ""
    raise Complaint(
        "invalid",
        f"No JSON object with `code` was found{where}; answer with one JSON object and nothing else.",
    )


def _json_problem(text: str) -> str:
    """Where an object breaks, and why, for whoever wrote it."""
    try:
        json.JSONDecoder(strict=False).raw_decode(text)
    except RecursionError:
        return "it is nested without end"
    except json.JSONDecodeError as error:
        near = " ".join(text[max(0, error.pos - 30) : error.pos + 10].split())
        return f"it breaks near `{near}` ({error.msg.lower()})"
    return "the first object has neither `code` nor `slot`"


def _strictly(text: str) -> Any:
    """The JSON value that a text begins with; None where there is none. Nesting without end is none."""
    try:
        return json.JSONDecoder(strict=False).raw_decode(text)[0]
    except (json.JSONDecodeError, RecursionError):
        return None


def _mended(text: str) -> Any:
    """As `_strictly`, once commas before an end are gone and what is open at the end is closed."""
    kept: list[str] = []
    ends: list[str] = []
    for token in re.findall(r'"(?:[^"\\]|\\.)*(?:"|\Z)|[{}\[\]]|[^"{}\[\]]+', text, re.DOTALL):
        if token in "}]":
            kept.append(re.sub(r",\s*\Z", "", kept.pop()))
            if not ends or ends.pop() != token:
                return None
        elif token in "{[":
            ends.append("}" if token == "{" else "]")
        kept.append(token)
        if not ends:
            return _strictly("".join(kept))
    whole = "".join(kept).rstrip()
    in_string = kept[-1].startswith('"') and (len(kept[-1]) == 1 or not kept[-1].endswith('"'))
    return _strictly((whole + '"' if in_string else whole.rstrip(",")) + "".join(reversed(ends)))


def _as_python(text: str) -> Any:
    """The Python literal between the first and the last brace; None where there is none."""
    try:
        return ast.literal_eval(text[: text.rfind("}") + 1])
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):
        return None


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
    for part in itertools.islice(_stretches(code.splitlines(), f"def {slot}"), MOST_STRETCHES):
        if _parses(part):
            return part
    raise Complaint("invalid", f"The code is not Python: {_syntax_problem(code)}.")


def _stretches(lines: list[str], wanted: str) -> Iterator[str]:
    """Pieces of a text that hold some words and begin as Python does, longest first from each beginning."""
    places = [number for number, line in enumerate(lines) if line.startswith(wanted)]
    if not places:
        return
    firsts = [n for n in range(places[0] + 1) if BEGINS_PYTHON.match(lines[n])][-LONGEST_HEAD:]
    within = range(places[0] + 1, min(len(lines), places[0] + LONGEST_FUNCTION))
    ends = [n for n in within if lines[n][:1].strip()]
    for first in firsts:
        for last in (*([len(lines)] if len(lines) - 1 in within else ()), *reversed(ends)):
            yield "\n".join(lines[first:last])


def _parses(text: str) -> bool:
    return _syntax_problem(text) == ""


def _syntax_problem(text: str) -> str:
    try:
        ast.parse(text)
    except RecursionError:
        return "it is nested without end"
    except (SyntaxError, ValueError, MemoryError) as error:
        return f"line {getattr(error, 'lineno', '?')}: {getattr(error, 'msg', error)}"
    return ""


def _rule_file(answer: Answer, code: str) -> str:
    """A whole rule file. Raises Complaint where another function than the slot was written."""
    try:
        rule = read_rule(code, answer.name)
    except (ValueError, RecursionError) as error:
        raise Complaint("invalid", f"The code cannot be read: {error}.") from error
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
