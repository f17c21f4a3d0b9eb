"""From a Vega-Lite specification to a drawing that stands inside a page: drawn by vl-convert, offline."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

_SIZE = re.compile(r'<svg [^>]*?width="([\d.]+)" height="([\d.]+)"[^>]*>')
_IDLE = re.compile(r' (?:pointer-events="none"|stroke-miterlimit="10"|opacity="1"|class="[^"]*")')
_EMPTY = re.compile(
    r'<path [^>]*d="(?:M0,0h0v0h0Z)?"[^>]*/>'
    r'|<text [^>]*opacity="0"[^>]*>[^<]*</text>'
    r'|<path aria-hidden="true" d="M[\d.]+,[\d.]+h[\d.]+v[\d.]+h-[\d.]+Z"/>'
)
_GEOMETRY = re.compile(r' (?:d|transform|x2|y2)="[^"]*"')
_LONG = re.compile(r"(\d+\.\d{2})\d+")


def draw(spec: Mapping[str, Any], description: str) -> str:
    """The specification as one <svg>, described for who cannot see it, as wide as its place."""
    import vl_convert

    return embed(vl_convert.vegalite_to_svg(dict(spec)), description)


def standalone(spec: Mapping[str, Any], description: str) -> str:
    """The specification as a file of its own: in the page's light colours, on their paper."""
    import vl_convert

    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    light = style[style.index(":root") : style.index("}")]
    colours = dict(re.findall(r"--([\w-]+): (#\w+)", light))
    written = re.sub(r"var\(--([\w-]+)\)", lambda found: colours[found[1]], json.dumps(spec))
    drawn = vl_convert.vegalite_to_svg({**json.loads(written), "background": colours["paper"]})
    return drawn.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1) + "\n"


def embed(svg: str, description: str) -> str:
    """A drawn <svg> without what a page does not need: fixed size, hints, empty paths, idle decimals."""
    size = _SIZE.match(svg)
    if size is None:
        raise AssertionError(f"expected an <svg> with width and height, got {svg[:80]!r}")
    body = _EMPTY.sub("", _IDLE.sub("", svg[size.end() :]))
    width, height = size.groups()
    head = f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(description)}">'
    return head + _GEOMETRY.sub(lambda found: _LONG.sub(r"\1", found[0]), body)
