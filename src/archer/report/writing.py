"""Writes a note as two files, each whole or not at all."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

from archer.report.html import to_html
from archer.report.markdown import to_markdown
from archer.report.tree import Note


def note_paths(folder: str | Path, name: str = "report", language: str = "en") -> tuple[Path, Path]:
    """Where a note is written: `name`.md and `name`.html, in another language than English `name`.zh.md and
    so on."""
    stem = name if language == "en" else f"{name}.{language}"
    return Path(folder, f"{stem}.md"), Path(folder, f"{stem}.html")


def write(note: Note, folder: str | Path, name: str = "report") -> tuple[Path, Path]:
    """The two files of `note_paths`, in a folder that is made if it is not there; gives back both paths.

    Each file replaces its predecessor in one step, so an interruption leaves the old file or the new one.
    Raises OSError as the disk does.
    """
    text, page = note_paths(folder, name, note.language)
    page.parent.mkdir(parents=True, exist_ok=True)
    _replace(page, to_html(note))
    _replace(text, to_markdown(note, page.name))
    return text, page


def _replace(path: Path, content: str) -> None:
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "w", encoding="utf-8", newline="\n") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o666 & ~_umask())
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def _umask() -> int:
    current = os.umask(0)
    os.umask(current)
    return current
