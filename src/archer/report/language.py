"""The languages of a note: one catalogue file each, with the same keys. The facts are the same in all."""

from __future__ import annotations

import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal, cast

from archer.errors import unknown
from archer.report.tree import Inline, Span, text_of

LANGUAGES = ("en", "zh")

_MARKUP = re.compile(r"(\*\*.+?\*\*|`.+?`|\{\w+\})")


@dataclass(frozen=True)
class Catalogue:
    """The words of one language. Entries may hold `{name}`, `**strong**` and `` `code` ``."""

    language: str
    entries: Mapping[str, str]

    def text(self, key: str, **values: Any) -> str:
        """An entry with its places filled, as plain words."""
        return self.entries[key].format(**values)

    def count(self, key: str, number: int, **values: Any) -> str:
        """The entry `key.one` or `key.other`, by the number; `{number}` is filled."""
        return self.text(f"{key}.{'one' if number == 1 else 'other'}", number=number, **values)

    def inline(self, key: str, **values: Any) -> Inline:
        """An entry as running text. A value may itself be running text; nothing in a value is markup."""
        spans: list[Span] = []
        for piece in _MARKUP.split(self.entries[key]):
            spans.extend(self._piece(piece, values))
        return tuple(spans)

    def joined(self, items: list[str] | tuple[str, ...]) -> str:
        """A, B and C."""
        if len(items) < 2:
            return "".join(items)
        return self.text("join.last", first=self.text("join.comma").join(items[:-1]), last=items[-1])

    def _piece(self, piece: str, values: Mapping[str, Any]) -> Inline:
        if not piece:
            return ()
        words = {
            name: text_of(value) if isinstance(value, tuple) else value for name, value in values.items()
        }
        if piece.startswith("**"):
            return (Span(piece[2:-2].format(**words), "strong"),)
        if piece.startswith("`"):
            return (Span(piece[1:-1].format(**words), "code"),)
        if piece.startswith("{"):
            value = values[piece[1:-1]]
            return cast(Inline, value) if isinstance(value, tuple) else (Span(str(value)),)
        return (Span(piece),)


@cache
def catalogue(language: Literal["en", "zh"] | str) -> Catalogue:
    """The catalogue of a language. Raises UserError, with the choices, where there is none."""
    if language not in LANGUAGES:
        raise unknown("language", language, LANGUAGES)
    path = Path(__file__).with_name(f"catalogue_{language}.toml")
    return Catalogue(language, _flatten(tomllib.loads(path.read_text(encoding="utf-8"))))


def _flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    entries: dict[str, str] = {}
    for key, value in tree.items():
        name = f"{prefix}{key}"
        entries.update(_flatten(value, f"{name}.") if isinstance(value, dict) else {name: value})
    return entries
