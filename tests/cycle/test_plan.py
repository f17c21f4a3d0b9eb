"""What may be trained by name: rules, baselines, and any module."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.fleet.tiny import SETTINGS, load, tiny_recipe, tiny_runs

from archer.cycle.plan import named_subject, runs_of
from archer.errors import UserError
from archer.fleet.train import train

MIXER = """
import torch

class Averaging(torch.nn.Module):
    def __init__(self, width, scale=1.0):
        super().__init__()
        self.out = torch.nn.Linear(width, width)
        self.scale = scale

    def forward(self, x):
        steps = torch.arange(1, x.shape[1] + 1)[:, None]
        return self.scale * self.out(x.cumsum(1) / steps)
"""


@pytest.mark.parametrize("name", ["attention", "gla", "mamba"])
def test_a_baseline_trains_as_a_fleet(name: str) -> None:
    """Two runs together end as each does alone."""
    like = tiny_runs(2, epochs=2)
    runs = [replace(run, subject=named_subject(name)) for run in like]
    together = {outcome.key: outcome for outcome in train(runs, load=load)}
    for run in runs:
        (alone,) = train([run], load=load)
        assert together[run.key].curve[-1].test_loss == pytest.approx(alone.curve[-1].test_loss, abs=1e-4)
        assert together[run.key].curve[-1].train_loss < together[run.key].curve[0].train_loss


def test_any_module_is_a_subject(tmp_path: Path) -> None:
    path = tmp_path / "mixer.py"
    path.write_text(MIXER)
    subject = named_subject(f"{path}:Averaging", {"scale": 0.5})
    presetlike = tiny_recipe(epochs=1)
    run = replace(tiny_runs(1)[0], subject=subject, recipe=presetlike, setting=SETTINGS["memorize"])
    (outcome,) = train([run], load=load)
    assert outcome.status == "finished"
    assert outcome.key != replace(run, subject=named_subject(f"{path}:Averaging", {"scale": 2.0})).key


def test_other_arguments_are_another_module(tmp_path: Path) -> None:
    """Tables and cycles know a module by its name and hash alone."""
    path = tmp_path / "mixer.py"
    path.write_text(MIXER)
    plain, half, twice = (
        named_subject(f"{path}:Averaging", arguments) for arguments in (None, {"scale": 0.5}, {"scale": 2.0})
    )
    assert len({plain.hash, half.hash, twice.hash}) == 3


def test_a_class_that_is_not_there_names_those_that_are(tmp_path: Path) -> None:
    path = tmp_path / "mixer.py"
    path.write_text(MIXER)
    run = replace(tiny_runs(1)[0], subject=named_subject(f"{path}:Averagin"))
    with pytest.raises(UserError, match="named 'Averagin'; it has Averaging"):
        list(train([run], load=load))


def test_an_unknown_name_gives_the_nearest() -> None:
    with pytest.raises(UserError, match="did you mean 'gla'"):
        named_subject("glaa")


def test_the_grid_is_settings_by_rates_by_decays_by_seeds() -> None:
    from archer.mad import PRESETS

    preset = PRESETS["full"]
    runs = runs_of(named_subject("delta_net"), preset, tiny_recipe())
    assert len(runs) == len({run.key for run in runs}) == 66 * 3 * 2 * preset.seeds


def test_a_schedule_is_part_of_what_decides_a_run() -> None:
    (run,) = tiny_runs(1, epochs=3)
    cosine = replace(run, recipe=replace(run.recipe, schedule="cosine"))
    assert cosine.key != run.key
    (plain,), (falling,) = train([run], load=load), train([cosine], load=load)
    assert plain.curve[0].train_loss == pytest.approx(falling.curve[0].train_loss, abs=1e-6)
    assert abs(plain.curve[-1].train_loss - falling.curve[-1].train_loss) > 1e-4
