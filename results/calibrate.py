"""Which unstated choices of training bring the history's Memorize scores: heads, first values, convolution.

    python results/calibrate.py delta_net --heads 1 2 4 8 --device cuda:0 >> results/calibration.csv

Trains each choice on all six Memorize settings at the grid's best learning rate (1e-3, weight decay 0) and
prints one row per member: held-out accuracy as `archer` scores it. Needs torch and numpy only.
"""

from __future__ import annotations

import argparse
import csv
import itertools
import sys
from dataclasses import dataclass, replace

import torch

from archer.fleet.compile import compiler
from archer.fleet.fleet import Fleet
from archer.fleet.run import Recipe, Run, select
from archer.fleet.subjects import rule_subject
from archer.mad.settings import MEMORIZE, SETTINGS, Setting
from archer.mad.store import load
from archer.model.backbone import Model
from archer.model.mixer import RuleMixer
from archer.model.parameters import linear_initial, projection_initial
from archer.rules import get_rule

DEVIATIONS = (0.02, 0.2, 1.0)
GAINS = (0.1, 0.306, 1.0)
"""Factors on PyTorch's first values of the mixer's projections; 0.306 gives a square one the deviation
0.0156 of Archer's own draw, Glorot's with gain 2 to the power -2.5."""
COLUMNS = (
    "rule",
    "heads",
    "convolution",
    "embedding_deviation",
    "gain",
    "seed",
    "vocabulary",
    "held_out",
    "best_epoch",
)


@dataclass(frozen=True)
class Choice:
    """What one member starts from."""

    embedding_deviation: float
    gain: float
    seed: int


def start(
    model: Model, recipe: Recipe, subject: object, setting: Setting, choices: list[Choice], device: str
) -> Fleet:
    """A fleet with one member per choice."""
    runs = [Run(subject, setting, recipe, 1e-3, 0.0, choice.seed) for choice in choices]  # type: ignore[arg-type]
    fleet = Fleet.start(model, runs, load, torch.device(device), compiler() if device != "cpu" else None)
    with torch.no_grad():
        for name, values in fleet.weights.views.items():
            for i, choice in enumerate(choices):
                if name == "embed":
                    values[i] *= choice.embedding_deviation / recipe.embedding_deviation
                elif ".mixer.project." in name or name.endswith(".mixer.out"):
                    values[i] *= choice.gain * _pytorchs_over_ours(*values.shape[1:])
    return fleet


def _pytorchs_over_ours(inputs: int, outputs: int) -> float:
    """How much wider PyTorch draws the first values of a projection than Archer does."""
    return linear_initial(inputs).scale / projection_initial(inputs, outputs).scale


def train(fleet: Fleet, epochs: int) -> list[tuple[float, int]]:
    """(held-out accuracy, its epoch) of every member."""
    for _ in range(epochs):
        fleet.run_epoch()
        if fleet.due():
            fleet.evaluate()
    found = []
    for member in fleet.members:
        best = min(member.curve, key=lambda point: point.validation_loss, default=None)
        found.append((select(member.curve)[1], best.epoch) if best and member.alive else (float("nan"), 0))
    return found


def main() -> None:
    """Reads the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("rule")
    parser.add_argument("--heads", type=int, nargs="+", default=[4])
    parser.add_argument("--no-convolution", action="store_true")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--vocabularies", type=int, nargs="*", default=[])
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--device", default="cuda:0" if torch.cuda.is_available() else "cpu")
    asked = parser.parse_args()
    rule = get_rule(asked.rule)
    layer = replace(
        rule.layer, heads=None, short_convolution=rule.layer.short_convolution and not asked.no_convolution
    )
    rule = replace(rule, layer=layer)
    choices = [Choice(*choice) for choice in itertools.product(DEVIATIONS, GAINS, range(asked.seeds))]
    recipe = Recipe(
        epochs=asked.epochs, evaluate_every=10, precision="bf16" if asked.device != "cpu" else "fp32"
    )
    writer = csv.writer(sys.stdout)
    for heads in asked.heads:
        mixer = RuleMixer(rule, recipe.width, heads, recipe.chunk_size)
        for setting in (s for s in SETTINGS if s.task == MEMORIZE):
            if asked.vocabularies and setting.vocabulary not in asked.vocabularies:
                continue
            length, deviation = setting.input_length, recipe.embedding_deviation
            model = Model(
                mixer, "language-model", setting.vocabulary, recipe.width, recipe.mixers, length, deviation
            )
            fleet = start(model, recipe, rule_subject(rule), setting, choices, asked.device)
            for choice, (score, epoch) in zip(choices, train(fleet, asked.epochs), strict=True):
                writer.writerow(
                    (rule.name, heads, int(layer.short_convolution), choice.embedding_deviation, choice.gain,
                     choice.seed, setting.vocabulary, score, epoch)
                )  # fmt: skip
            sys.stdout.flush()


if __name__ == "__main__":
    main()
