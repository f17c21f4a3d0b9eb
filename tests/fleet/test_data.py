"""Order and padding of training data."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import pytest
import torch
from tests.fleet.tiny import load, tiny_runs

from archer.fleet.data import IGNORED, load_split, shuffled
from archer.fleet.run import Subject
from archer.mad import Setting


def test_an_epoch_sees_every_example_once() -> None:
    order = shuffled(torch.tensor([0, 1]), torch.tensor([0, 5]), 100, 16)
    assert order.shape == (2, 7, 16)
    for member in order.flatten(1):
        assert sorted(member[member >= 0].tolist()) == list(range(100))
    assert (order.flatten(1)[:, 100:] == -1).all()


def test_seeds_and_epochs_shuffle_differently() -> None:
    seeds, epochs = torch.tensor([0, 0, 1, 1]), torch.tensor([0, 1, 0, 1])
    orders = shuffled(seeds, epochs, 500, 100).flatten(1)
    for i in range(4):
        for j in range(i):
            assert (orders[i] == orders[j]).float().mean() < 0.05


def test_positions_are_uniform() -> None:
    """Over 4,000 shuffles every example comes first about equally often.

    Chi-square, 9 degrees of freedom.
    """
    epochs = torch.arange(4000)
    first = shuffled(torch.zeros(4000, dtype=torch.long), epochs, 10, 10)[:, 0, 0]
    expected = 400
    assert ((torch.bincount(first, minlength=10) - expected) ** 2 / expected).sum() < 27.9  # p = 0.001


def test_the_order_is_the_same_everywhere() -> None:
    """The digest of an order, written down once: another machine or version must give it too."""
    order = shuffled(torch.tensor([3]), torch.tensor([7]), 1000, 128)
    digest = hashlib.sha256(order.numpy().astype("<i8").tobytes()).hexdigest()
    assert digest[:16] == "a55e2a6a3120c887"


@pytest.mark.parametrize(("tokens", "trained"), [(2, 2), (4, 4), (6, 8), (8, 8), (10, 16), (20, 24)])
def test_what_is_longer_than_half_a_chunk_is_filled_up(tokens: int, trained: int) -> None:
    """Chunks of 8; a model that reads to the end and back is never filled up, nor is a module."""
    (run,) = tiny_runs(1)
    memorize = replace(run, setting=Setting("Memorize", 9, tokens, 16))
    assert memorize.padded_length == trained
    assert replace(run, setting=Setting("Compress", 8, tokens, 16)).padded_length == tokens
    assert replace(memorize, subject=Subject("m", "", "", module="m.py:M")).padded_length == tokens


def test_padding_is_not_scored() -> None:
    runs = tiny_runs(2)
    split = load_split(runs, "train", load, torch.device("cpu"))
    plain = load(runs[0].setting, 0, "train")
    assert split.inputs.shape[-1] == 24  # 19 tokens, whole chunks of 8
    assert (split.targets[0, :, 19:] == IGNORED).all()
    assert torch.equal(split.targets[0, :, :19].long(), torch.from_numpy(plain.targets))


def test_an_empty_place_in_a_batch_is_not_scored() -> None:
    split = load_split(tiny_runs(2), "train", load, torch.device("cpu"))
    _, targets = split.batch(torch.tensor([[0, -1], [1, 2]]))
    assert (targets[0, 1] == IGNORED).all()
    assert (targets[1, 1] != IGNORED).any()
