from __future__ import annotations

from dataclasses import replace
from itertools import count

import pytest

from archer.ledger.records import TASKS, RunRecord
from archer.ledger.summary import Missing, ScoreRow, chosen_runs, score_table

GRID = ((1e-4, 0.0), (1e-3, 0.0))


@pytest.fixture
def make(run: RunRecord):
    """A run with (mad, held_out, validation), or a status without scores."""
    number = count()

    def make(
        task: str, setting: str, rate: float, result: tuple[float, ...] | str, **changes: object
    ) -> RunRecord:
        status, scores = ("finished", result) if isinstance(result, tuple) else (result, (None, None, None))
        names = dict(zip(("mad", "held_out", "validation"), scores, strict=True))
        point = {"learning_rate": rate, "weight_decay": 0.0, "seed": 0, "key": f"k{next(number)}"}
        return replace(run, task=task, setting=setting, status=status, **{**names, **point, **changes})

    return make


def row_of(runs: list[RunRecord], rule: str = "delta_net", **options: object) -> ScoreRow:
    return {row.rule: row for row in score_table(runs, "smoke", **options)}[rule]  # type: ignore[arg-type]


def test_the_grid_point_is_chosen_by_validation_and_for_mad_by_test(make) -> None:
    runs = [
        make("Compress", "a", 1e-4, (0.9, 0.8, 0.1)),
        make("Compress", "a", 1e-3, (0.5, 0.4, 0.6)),
        make("Compress", "b", 1e-4, (0.3, 0.2, 0.9)),
        make("Compress", "b", 1e-3, (0.7, 0.6, 0.5)),
    ]
    assert row_of(runs).scores["Compress"] == pytest.approx((0.4 + 0.2) / 2)
    assert row_of(runs, select="mad").scores["Compress"] == pytest.approx((0.9 + 0.7) / 2)
    chosen = chosen_runs(runs)
    assert [chosen["Compress", name, 0].key for name in "ab"] == ["k1", "k2"]


def test_settings_count_alike_and_then_seeds(make) -> None:
    runs = [
        make("Memorize", "a", 1e-3, (0.2, 0.2, 0.2)),
        make("Memorize", "b", 1e-3, (0.4, 0.4, 0.4)),
        make("Memorize", "a", 1e-3, (0.6, 0.6, 0.6), seed=1),
        make("Memorize", "b", 1e-3, (1.0, 1.0, 1.0), seed=1),
    ]
    row = row_of(runs)
    assert (row.scores["Memorize"], row.seeds) == (pytest.approx((0.3 + 0.8) / 2), 2)
    assert "Memorize" not in row.missing


def test_seeds_that_were_added_in_one_task_are_not_missed_in_the_others(make) -> None:
    runs = [make(task, "a", 1e-3, (0.5,) * 3) for task in TASKS]
    runs += [make("Memorize", "a", 1e-3, (0.7,) * 3, seed=seed) for seed in (1, 2)]
    row = row_of(runs)
    assert (row.scores["Memorize"], row.scores["Compress"]) == (pytest.approx((0.5 + 0.7 + 0.7) / 3), 0.5)
    assert (row.seeds, row.missing) == (3, {})
    half = make("Compress", "b", 1e-3, (0.5,) * 3)
    assert row_of([*runs, half, make("Compress", "a", 1e-3, (0.5,) * 3, seed=1)]).scores["Compress"] is None


def test_the_mean_is_over_six_tasks_or_none(make) -> None:
    runs = [make(task, "a", 1e-3, (n / 10,) * 3) for n, task in enumerate(TASKS)]
    assert row_of(runs).mean == pytest.approx(0.25)
    row = row_of(runs[1:])
    assert (row.mean, row.scores[TASKS[0]], row.missing[TASKS[0]]) == (
        None,
        None,
        Missing(settings=("any setting",)),
    )


def test_a_setting_that_diverged_is_never_averaged_away(make) -> None:
    runs = [
        make("Compress", "a", 1e-4, (0.9, 0.9, 0.9)),
        make("Compress", "a", 1e-3, "diverged"),
        make("Compress", "b", 1e-4, "diverged"),
        make("Compress", "b", 1e-3, "crashed"),
    ]
    row = row_of(runs)
    assert row.scores["Compress"] is None
    assert row.missing["Compress"] == Missing(diverged=2, crashed=1, settings=("b",))
    assert str(row.missing["Compress"]) == "2 diverged, 1 crashed, no score for b"
    row = row_of(runs[:2])
    assert (row.scores["Compress"], row.missing["Compress"]) == (0.9, Missing(diverged=1))


def test_a_seed_that_diverged_is_never_averaged_away(make) -> None:
    runs = [
        make("Compress", "a", 1e-3, (0.9, 0.9, 0.9)),
        make("Compress", "a", 1e-3, "diverged", seed=1),
    ]
    row = row_of(runs)
    assert (row.scores["Compress"], row.missing["Compress"]) == (None, Missing(diverged=1, settings=("a",)))


def test_what_another_rule_has_is_missed(make) -> None:
    runs = [
        make("Compress", "a", 1e-4, (0.5, 0.5, 0.5)),
        make("Compress", "a", 1e-3, (0.5, 0.5, 0.5), rule="b", rule_hash="hb"),
        make("Compress", "b", 1e-3, (0.5, 0.5, 0.5), rule="b", rule_hash="hb"),
    ]
    assert row_of(runs).missing["Compress"] == Missing(absent=3, settings=("b",))
    assert row_of(runs).scores["Compress"] is None
    assert row_of(runs, "b").scores["Compress"] == 0.5
    planned = row_of(runs, settings={"Compress": ["a"]}, grid=[(1e-4, 0.0)])
    assert (planned.scores["Compress"], "Compress" in planned.missing) == (0.5, False)


def test_equal_validation_is_not_decided_by_the_test_score(make) -> None:
    runs = [make("Compress", "a", rate, (score, score, 0.5)) for rate, score in ((1e-3, 0.9), (1e-4, 0.1))]
    assert row_of(runs).scores["Compress"] == row_of(runs[::-1]).scores["Compress"] == 0.1


def test_an_edited_rule_is_another_row_and_other_presets_stay_out(make) -> None:
    runs = [
        make("Compress", "a", 1e-3, (0.1, 0.1, 0.1)),
        make("Compress", "a", 1e-3, (0.9, 0.9, 0.9), rule_hash="edited"),
        make("Compress", "a", 1e-4, (1.0, 1.0, 1.0), preset="quick"),
    ]
    rows = score_table(runs, "smoke")
    assert [(row.rule_hash, row.scores["Compress"]) for row in rows] == [("edited", 0.9), ("hash-1", 0.1)]
    assert score_table(runs, "full") == ()


def test_the_latest_training_code_counts_but_no_crash_and_no_drop(make) -> None:
    runs = [
        make("Compress", "a", 1e-3, (0.1, 0.1, 0.1), finished_at="2025-01-01"),
        make("Compress", "a", 1e-3, (0.2, 0.2, 0.2), finished_at="2025-01-03"),
        make("Compress", "a", 1e-3, (0.3, 0.3, 0.3), finished_at="2025-01-02"),
        make("Compress", "a", 1e-3, "crashed", finished_at="2025-01-04"),
        make("Compress", "a", 1e-3, "dropped", finished_at="2025-01-04"),
    ]
    assert row_of(runs).scores["Compress"] == 0.2
    assert (
        row_of([*runs, make("Compress", "a", 1e-3, "diverged", finished_at="2025-01-05")]).scores["Compress"]
        is None
    )


def test_what_a_race_dropped_is_not_missing_where_another_grid_point_stands_for_it(make) -> None:
    runs = [make(task, "a", 1e-3, (0.5,) * 3) for task in TASKS]
    runs += [make(task, "a", 1e-4, "dropped") for task in TASKS]
    assert (row_of(runs).mean, row_of(runs).missing) == (0.5, {})
    alone = row_of([run for run in runs if (run.task, run.status) != ("Compress", "finished")])
    assert (alone.scores["Compress"], alone.mean) == (None, None)
    assert alone.missing == {"Compress": Missing(absent=1, settings=("a",))}


def test_an_unknown_selection_is_refused(make) -> None:
    runs = [make("Compress", "a", rate, (0.1,) * 3) for rate in (1e-3, 1e-4)]
    with pytest.raises(ValueError, match="expected 'held_out' or 'mad'"):
        row_of(runs, select="best")
