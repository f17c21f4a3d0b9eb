"""Researchers: whoever proposes the next rule, from facts alone.

`researcher` holds the interface, `structured` the default (search over slots, no key), `control` the arms
that measure luck, `model` a language model, `mcp` a coding agent, `papers` the library of paper cards.
"""
