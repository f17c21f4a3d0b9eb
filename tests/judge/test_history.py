"""What the built-in tables support, and what they do not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from archer.errors import UserError
from archer.judge import NoiseFloor, analyse, rejudge_history
from archer.judge.history import SETTINGS, HistoryDifference, Rejudged
from archer.judge.reach import equal_settings, history_same_function, one_function_in_one_chunk
from archer.ledger.history import HistoryRow, HistoryTable, builtin_history
from archer.ledger.records import TASKS
from archer.rules import resolve_history_name, rule_names

SECOND = "2025-06-16_second_protocol"


@pytest.fixture(scope="module")
def judged() -> Rejudged:
    return rejudge_history(builtin_history(), history_same_function(), noise={})


def find(judged: Rejudged, table: str, part: str, task: str) -> HistoryDifference:
    return next(
        one for one in judged.differences if one.table == table and part in one.model and one.task == task
    )


def test_settings_are_those_of_the_full_protocol() -> None:
    assert sum(SETTINGS.values()) == 66
    assert (SETTINGS["Memorize"], SETTINGS["Compress"]) == (6, 11)


def test_state_write_rules_are_one_function_where_one_chunk_is_all() -> None:
    names = ("decay", "momentum", "adam", "rmsprop", "layernorm_write", "error_gated", "topk_error")
    for name in names:
        assert one_function_in_one_chunk(name)
        assert len(equal_settings(name, "Memorize")) == 6
        assert len(equal_settings(name, "Compress")) == 8
        assert equal_settings(name, "Selective Copy") == frozenset()
    for name in ("softmax", "hybrid", "gelu_error", "gated_delta_net"):
        assert not one_function_in_one_chunk(name)
        assert equal_settings(name, "Memorize") == frozenset()


def test_state_write_rules_cannot_differ_on_memorize(judged: Rejudged) -> None:
    for part in (
        "adam_state",
        "decay_state",
        "4layer_error_gated",
        "layernorm",
        "momentum",
        "rmsprop",
        "topk",
    ):
        assert find(judged, "fifteen_trials", part, "Memorize").conclusion == "one function"
    assert find(judged, "fifteen_trials", "adam_state", "Context Recall").conclusion == "no noise estimate"


def test_the_noise_of_memorize_is_measured_by_the_repeats(judged: Rejudged) -> None:
    floor = judged.noise["fifteen_trials"]["Memorize"]
    assert floor.sd == pytest.approx(0.020, abs=0.001)
    assert floor.degrees_of_freedom == 8
    assert set(judged.noise["fifteen_trials"]) == {"Memorize"}


def test_large_gains_exceed_the_noise_and_small_ones_do_not(judged: Rejudged) -> None:
    conclusions = {
        part: find(judged, "fifteen_trials", part, "Memorize").conclusion
        for part in ("softmax_attention_in", "hybrid", "gelu", "sigmoid", "rope")
    }
    assert conclusions == {
        "softmax_attention_in": "beyond noise",
        "hybrid": "beyond noise",
        "gelu": "within noise",
        "sigmoid": "within noise",
        "rope": "within noise",
    }


def test_the_second_protocol_must_not_be_mixed(judged: Rejudged) -> None:
    names = [table.name for table in builtin_history()]
    first = [name for name in names if name != SECOND]
    assert any(set(first) <= {*group} for group in judged.groups)
    assert not any(name in group and SECOND in group for name in first for group in judged.groups)
    assert any(one.model == "delta_net_4layer" and SECOND in one.tables for one in judged.conflicts)


def test_the_second_protocol_refutes_one_function_there(judged: Rejudged) -> None:
    assert judged.contradicted == ((SECOND, "Memorize"),)
    assert find(judged, SECOND, "adam", "Memorize").conclusion == "no noise estimate"
    assert "Memorize" not in judged.noise[SECOND]


def test_a_floor_from_elsewhere_judges_the_other_tasks() -> None:
    noise = {"Context Recall": NoiseFloor("Context Recall", 0.001, 20, "runs", 11, 0.0033)}
    found = rejudge_history(builtin_history(), history_same_function(), noise=noise)
    assert find(found, "fifteen_trials", "adam_state", "Context Recall").conclusion == "beyond noise"
    assert find(found, "fifteen_trials", "gelu", "Context Recall").conclusion == "within noise"
    assert find(found, "fifteen_trials", "gelu", "Fuzzy Recall").conclusion == "no noise estimate"


def test_provisional_floors_judge_nothing() -> None:
    noise = {"Context Recall": NoiseFloor("Context Recall", 1e-6, 20, "guess", 11, 1e-6, provisional=True)}
    found = rejudge_history(builtin_history(), history_same_function(), noise=noise)
    assert find(found, "fifteen_trials", "adam_state", "Context Recall").conclusion == "no noise estimate"


def test_where_noise_is_unknown_it_is_said_how_small_it_would_have_to_be(judged: Rejudged) -> None:
    found = find(judged, "fifteen_trials", "hybrid", "Fuzzy Recall")
    assert found.noise_below is not None
    assert 0.03 < found.noise_below < abs(found.difference) / 2


def table_of(name: str, *rows: tuple[str, float]) -> HistoryTable:
    return HistoryTable(
        name, Path(name), tuple(HistoryRow(model, dict.fromkeys(TASKS, score)) for model, score in rows)
    )


def test_tables_without_a_common_model_stay_apart() -> None:
    tables = [
        table_of("one", ("base", 0.5), ("a", 0.6)),
        table_of("two", ("base", 0.5)),
        table_of("three", ("base", 0.4)),
    ]
    found = rejudge_history(tables, lambda model, task: None, baseline="base", noise={})
    assert found.groups == (("one", "two"), ("three",))


def test_a_table_without_the_baseline_is_refused() -> None:
    with pytest.raises(UserError, match="delta_net_4layer"):
        rejudge_history([table_of("one", ("base", 0.5))], lambda model, task: None)
    with pytest.raises(UserError, match="one name"):
        rejudge_history([table_of("one", ("b", 0.5))] * 2, lambda model, task: None, baseline="b")


def test_analysis_of_the_fifteen_trials() -> None:
    found = analyse(
        builtin_history()[0],
        known_rules=rule_names(),
        resolve=resolve_history_name,
        same_function=history_same_function(),
    )
    assert found.tasks_behind[:3] == ("Memorize", "Fuzzy Recall", "Selective Copy")
    assert "Compress" not in found.tasks_behind
    assert len(found.trials) == 14
    assert found.ranking[0][0].endswith("hybrid_softmax_raw_attention_in_for_loop")
    assert found.unresolved == ()
    assert "local_softmax" in found.untried
    assert "softmax" not in found.untried
    trials = {trial.rule: trial for trial in found.trials}
    hybrid = trials["hybrid"]
    assert hybrid.gain == ("Fuzzy Recall", pytest.approx(0.529823 - 0.216574))
    assert hybrid.loss == ("Compress", pytest.approx(0.386774 - 0.441687))
    assert hybrid.ahead_of_reference == ("Compress", "Fuzzy Recall", "Memorize")
    assert hybrid.beyond_noise == ("Memorize",)
    assert trials["adam"].gain is None
    assert trials["adam"].one_function == ("Memorize",)
    assert trials["error_gated"].gain == ("Fuzzy Recall", pytest.approx(0.227001 - 0.216574))
    memorize = next(one for one in found.standings if one.task == "Memorize")
    assert memorize.gap == pytest.approx(0.586678 - 0.403352)
    assert "softmax_attention" in memorize.best_model
    assert not memorize.reference_ahead
    assert memorize.noise_sd == pytest.approx(0.0208, abs=0.001)


def test_analysis_names_what_it_cannot_resolve_and_what_is_missing() -> None:
    table = replace(builtin_history()[4])
    found = analyse(table, resolve=lambda model: None, known_rules=["decay"])
    assert len(found.unresolved) == len(table.rows)
    assert found.untried == ("decay",)
    with pytest.raises(UserError, match="nobody"):
        analyse(table, reference="nobody")
