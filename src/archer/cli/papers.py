"""`archer papers`: search the cards on linear attention and fast weights, offline."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from archer.cli.console import print_json, print_note, results

if TYPE_CHECKING:
    from archer.research.papers import Card


def command(
    query: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="WORD", help="Words to look for, or a card's id. Without any, all cards are listed."
        ),
    ] = None,
    folder: Annotated[
        Path | None,
        typer.Option(
            "--folder", metavar="DIR", help="A folder with cards of your own (*.md), searched as well."
        ),
    ] = None,
    limit: Annotated[int, typer.Option("--limit", metavar="N", min=1, help="How many cards at most.")] = 8,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")] = False,
) -> None:
    """What papers say about a mechanism, offline.

    60 cards in our own words, searched without a network. A card's id shows the whole card.

    Example: archer papers softmax temperature
    """
    from archer.research.papers import all_cards, search_cards

    words = " ".join(query or ())
    cards = {card.id: card for card in all_cards(folder)}
    if words in cards:
        return _show([cards[words]], as_json, whole=True)
    found = [one.card for one in search_cards(words, folder, limit)] if words else list(cards.values())
    _show(found, as_json, whole=False)
    if not found and not as_json:
        print_note(f"no card has any of these words: {words}")
    return None


def _show(cards: list[Card], as_json: bool, whole: bool) -> None:
    from dataclasses import asdict

    from rich.markdown import Markdown
    from rich.text import Text

    if as_json:
        return print_json([asdict(card) for card in cards])
    console = results()
    for card in cards:
        console.print(Text.assemble((card.id, "bold"), f"  {card.title}"))
        console.print(Text(f"  {card.reference} · slot {card.slot} · helps {card.helps}", style="dim"))
        if whole:
            console.print(Markdown(card.text))
        else:
            console.print(Text("  " + _first_paragraph(card.text)), soft_wrap=False)
    return None


def _first_paragraph(text: str) -> str:
    paragraphs = [part for part in text.split("\n\n") if part.strip() and not part.startswith("#")]
    return " ".join(paragraphs[0].split()) if paragraphs else ""
