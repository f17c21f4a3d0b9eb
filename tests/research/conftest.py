import pytest

from archer.ledger.history import builtin_history
from archer.research.context import history_measurements
from archer.research.researcher import Context
from archer.research.rule_text import library_sources


@pytest.fixture(scope="session")
def sources():
    return library_sources()


FEW = ("delta_net", "gated_delta_net", "softmax", "hybrid", "decay", "error_gated", "adam")


@pytest.fixture(scope="session")
def history_context(sources):
    """What a researcher knows in the first cycle, with few parents to be quick."""
    few = {name: sources[name] for name in FEW}
    measured = history_measurements(builtin_history(), few)
    return Context(sources=few, history=measured, preset="quick", now="2025-01-01T00:00:00Z")
