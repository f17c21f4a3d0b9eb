"""Makes docs/images/run.png: a real `archer run` in a new folder, drawn as a terminal. Wants Chromium.

.venv/bin/python docs/images/run.py    # two minutes on two cores
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.text import Text

COLUMNS = 150
PICTURE = Path(__file__).with_name("run.png")


def main() -> None:
    """The picture, made again."""
    chromium = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if chromium is None:
        sys.exit("error: Chromium draws the picture, and none was found")
    with tempfile.TemporaryDirectory() as folder:
        page = Path(folder, "run.svg")
        page.write_text(drawn(cycle(folder)), encoding="utf-8")
        shot = Path(folder, "run.png")
        command = [chromium, "--headless", "--no-sandbox", "--hide-scrollbars", f"--window-size={size(page)}"]
        subprocess.run([*command, f"--screenshot={shot}", page.as_uri()], check=True, capture_output=True)
        shutil.copyfile(shot, PICTURE)


def cycle(folder: str) -> str:
    """What a smoke cycle says in a terminal with colours, without the bars that move."""
    told = {**os.environ, "FORCE_COLOR": "1", "TTY_INTERACTIVE": "0", "COLUMNS": str(COLUMNS)}
    command = [sys.executable, "-m", "archer", "run"]
    return subprocess.run(
        command, cwd=folder, env=told, text=True, check=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    ).stdout


def drawn(said: str) -> str:
    """A terminal with this text, as SVG."""
    console = Console(record=True, width=COLUMNS, file=io.StringIO())
    console.print(Text.assemble(("$ ", "bold green"), "make run"))
    console.print(Text.from_ansi(said.rstrip()))
    return console.export_svg(title="archer")


def size(page: Path) -> str:
    """Width and height of an SVG in pixels, with a comma between them."""
    found = re.search(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', page.read_text(encoding="utf-8"))
    assert found, page
    return ",".join(str(round(float(number))) for number in found.groups())


if __name__ == "__main__":
    main()
