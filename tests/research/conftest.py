import pytest

from archer.ledger.history import builtin_history
from archer.research.context import history_measurements
from archer.research.researcher import Context
from archer.research.rule_text import library_sources


@pytest.fixture(scope="session")
def sources():
    return library_sources()


@pytest.fixture(scope="session")
def history_context(sources):
    """What a researcher knows in the first cycle: the library and the history."""
    measured = history_measurements(builtin_history(), sources)
    return Context(sources=sources, history=measured, preset="quick", now="2025-01-01T00:00:00Z")
