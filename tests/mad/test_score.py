"""Our score is torchmetrics' macro accuracy, per batch, for numpy and for a fleet in torch."""

from __future__ import annotations

import numpy as np
import pytest

from archer.mad import BASELINES, TASKS, generate, macro_accuracy, macro_accuracy_torch
from archer.mad.checks import check
from archer.mad.score import ScoreError, batch_accuracy
from archer.mad.settings import COMPRESS, IGNORED, tokens_of

torch = pytest.importorskip("torch")
classification = pytest.importorskip("torchmetrics.classification")

CLASSES = 6


def reference(predictions: np.ndarray, targets: np.ndarray, classes: int = CLASSES) -> float:
    metric = classification.MulticlassAccuracy(num_classes=classes, average="macro", ignore_index=IGNORED)
    return float(metric(torch.tensor(predictions).reshape(-1), torch.tensor(targets).reshape(-1)))


def hide(targets: np.ndarray, random: np.random.Generator, fraction: float) -> np.ndarray:
    return np.where(random.random(targets.shape) < fraction, IGNORED, targets)


def cases() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """[B, T] predictions and targets: random ones, and those that averages over classes stumble on."""
    random = np.random.default_rng(0)
    found = {}
    for number in range(20):
        shape = (int(random.integers(1, 9)), int(random.integers(1, 9)))
        predictions, targets = random.integers(0, CLASSES, (2, *shape))
        found[f"random {number}"] = (predictions, hide(targets, random, number / 20))
    targets = random.integers(0, 3, (4, 8))
    found["right"] = (targets, targets)
    found["wrong"] = ((targets + 1) % 3, targets)
    found["one class predicted, absent from the targets"] = (targets * 0 + 5, targets)
    found["constant"] = (targets * 0, targets)
    found["one class only"] = (targets * 0, targets * 0)
    found["an absent class predicted once"] = (np.where(np.arange(8) == 0, 4, targets), targets)
    found["absent class predicted only where not scored"] = (
        np.where(np.arange(8) == 0, 4, targets),
        np.where(np.arange(8) == 0, IGNORED, targets),
    )
    found["nothing scored"] = (targets, targets * 0 + IGNORED)
    found["one token scored"] = (targets, np.where(np.arange(32).reshape(4, 8) == 5, targets, IGNORED))
    found["rare class right, common class wrong"] = (np.full((1, 9), 1), np.array([[0] * 8 + [1]]))
    return found


@pytest.mark.parametrize("name", cases())
def test_equals_torchmetrics(name: str) -> None:
    predictions, targets = cases()[name]
    expected = reference(predictions, targets)
    assert batch_accuracy(predictions, targets, CLASSES) == pytest.approx(expected, abs=1e-6)
    fleet = macro_accuracy_torch(torch.tensor(predictions)[None], torch.tensor(targets)[None], CLASSES)
    assert fleet.shape == (1,)
    assert float(fleet[0]) == pytest.approx(expected, abs=1e-6)


def test_the_cases_reach_what_tells_averages_apart() -> None:
    """Plain accuracy, and a macro average over target classes alone, would fail some of the cases."""
    plain, targets_only = 0, 0
    for predictions, targets in cases().values():
        scored = targets != IGNORED
        if not scored.any():
            continue
        expected = reference(predictions, targets)
        plain += abs((predictions == targets)[scored].mean() - expected) > 1e-3
        present = [(predictions == c)[targets == c].mean() for c in np.unique(targets[scored])]
        targets_only += abs(np.mean(present) - expected) > 1e-3
    assert plain >= 10
    assert targets_only >= 5


def test_fleet_members_do_not_touch_each_other() -> None:
    every = [case for case in cases().values() if case[1].shape == (4, 8)]
    predictions = torch.tensor(np.stack([case[0] for case in every]))
    targets = torch.tensor(np.stack([case[1] for case in every]))
    together = macro_accuracy_torch(predictions, targets, CLASSES)
    expected = [reference(*case) for case in every]
    np.testing.assert_allclose(together.numpy(), expected, atol=1e-6)
    assert len(set(together.tolist())) > 3
    shared = macro_accuracy_torch(predictions, targets[0], CLASSES)
    np.testing.assert_allclose(shared.numpy(), [reference(case[0], every[0][1]) for case in every], atol=1e-6)


def test_mean_over_batches_of_128() -> None:
    random = np.random.default_rng(1)
    predictions, targets = random.integers(0, CLASSES, (2, 1280, 5))
    targets = hide(targets, random, 0.7)
    batches = [reference(predictions[i : i + 128], targets[i : i + 128]) for i in range(0, 1280, 128)]
    assert macro_accuracy(predictions, targets, CLASSES) == pytest.approx(np.mean(batches), abs=1e-6)
    assert abs(reference(predictions, targets) - np.mean(batches)) > 1e-5
    last = macro_accuracy(predictions[:160], targets[:160], CLASSES)
    tail = reference(predictions[128:160], targets[128:160])
    assert last == pytest.approx((128 * batches[0] + 32 * tail) / 160, abs=1e-6)


def test_classes_out_of_range_and_shapes_that_differ_are_refused() -> None:
    with pytest.raises(ScoreError, match="go from 6 to 6, expected classes 0 to 5"):
        macro_accuracy(np.array([[6]]), np.array([[1]]), CLASSES)
    with pytest.raises(ScoreError, match="go from -1 to -1"):
        macro_accuracy(np.array([[1]]), np.array([[-1]]), CLASSES)
    with pytest.raises(ScoreError, match=r"\(1, 2\) and targets \(1, 1\)"):
        macro_accuracy(np.array([[1, 1]]), np.array([[1]]), CLASSES)
    assert macro_accuracy(np.array([[99, 1]]), np.array([[IGNORED, 1]]), CLASSES) == 1.0


def test_check_reads_every_task() -> None:
    rows = check()
    assert [row.task for row in rows] == list(TASKS)
    for row in rows:
        assert row.solver == 1.0
        assert row.determined > 0.95
        assert 0 < row.chance < 0.2
        assert row.seconds > 0


@pytest.mark.parametrize("setting", BASELINES, ids=lambda s: s.name)
def test_chance_is_what_guessing_scores(setting) -> None:
    test = generate(setting, 0, "test")
    tokens, random = tokens_of(setting), np.random.default_rng(0)
    if setting.task == COMPRESS:
        guesses = random.integers(0, tokens.content, test.targets.shape)
        guesses[:, -1] = setting.vocabulary - 1
    elif setting.task == "Selective Copy":
        guesses = random.integers(0, tokens.content, test.targets.shape)
    else:
        guesses = random.integers(tokens.keys, tokens.values_end, test.targets.shape)
    chance = TASKS[setting.task].chance(setting)
    four_deviations = 4 * np.sqrt(chance / (test.targets != IGNORED).sum())
    score = macro_accuracy(guesses, test.targets, setting.vocabulary)
    assert score == pytest.approx(chance, abs=four_deviations)
