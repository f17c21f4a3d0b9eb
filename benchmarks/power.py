"""How often verdicts are right: error rates, coverage and power by simulation, written into the docs.

    python benchmarks/power.py            about a minute; rewrites the tables of docs/design/statistics.md
    python benchmarks/power.py --check    prints them and leaves the file alone

The worlds are drawn from the noise of our own runs (results/quick.csv: 29 rules, three seeds), from
src/archer/judge/variance.json, which the judge uses where runs say nothing, and from one plain number. The
last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

import numpy as np

from archer.errors import exit_plainly
from archer.judge.history import SETTINGS
from archer.judge.noise import NoiseFloor, noise_floor, shipped_variance
from archer.judge.sequential import UntilDecided
from archer.judge.simulate import (
    Design,
    Drawn,
    ceiling,
    designs,
    draw,
    draw_unlike_normal,
    from_values,
    heavy_tails,
    judge,
    judge_sequentially,
    simulate,
    two_outcomes,
)
from archer.ledger import read_runs
from archer.ledger.records import TASKS

PAGE = Path(__file__).parents[1] / "docs" / "design" / "statistics.md"
RUNS = Path(__file__).parents[1] / "results" / "quick.csv"
BEGIN, END = "<!-- tables: benchmarks/power.py -->", "<!-- end of tables -->"
DIFFERENCES = (0.01, 0.03, 0.1)
MADE_UP = 0.02
"""Standard deviation of one setting's score in the second set of worlds."""
QUIET = 3e-4
"""Standard deviation of scores that stay at the ceiling."""


def measured_floors() -> list[NoiseFloor]:
    """The noise of one setting's score on each task, as the seeds of our own runs show it."""
    found = noise_floor(read_runs(RUNS))
    return [found[task] for task in TASKS]


def made_up_floors() -> list[NoiseFloor]:
    """A plain world to think with: every setting's score has a standard deviation of 0.02."""
    return [NoiseFloor(task, MADE_UP, 12, "made up", 1, MADE_UP, heterogeneity=6.0) for task in TASKS]


def generator() -> np.random.Generator:
    """The same numbers for every table."""
    return np.random.default_rng(20260101)


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def errors(floors: list[NoiseFloor], replicates: int) -> tuple[str, dict[str, float]]:
    """No difference anywhere: false words and coverage per design."""
    rows, worst = [], {"any_better": 0.0, "beats_all": 0.0, "coverage_low": 1.0, "coverage_high": 0.0}
    for design in designs(SETTINGS, TASKS):
        judged = judge(simulate(floors, design, 0.0, replicates=replicates, generator=generator()))
        cover = judged.coverage(0.0)
        better, beats = judged.any_rate("better"), judged.all_rate("better")
        worst["any_better"] = max(worst["any_better"], better)
        worst["beats_all"] = max(worst["beats_all"], beats)
        worst["coverage_low"] = min(worst["coverage_low"], float(cover.min()))
        worst["coverage_high"] = max(worst["coverage_high"], float(cover.max()))
        rows.append([design.name, f"{better:.2%}", f"{beats:.3%}", f"{cover.min():.1%} to {cover.max():.1%}"])
    header = ["design", "better on any task", "beats on all six", "intervals hold the truth (least, most)"]
    return table(header, rows), worst


def power(floors: list[NoiseFloor], replicates: int) -> str:
    """One task differs, five do not: how often that task is called better, per task and design."""
    rows = []
    for design in designs(SETTINGS, TASKS):
        for difference in DIFFERENCES:
            found = [
                judge(
                    simulate(
                        floors,
                        design,
                        np.where(np.arange(len(TASKS)) == index, difference, 0.0),
                        replicates=replicates,
                        generator=generator(),
                    )
                ).rate("better")[index]
                for index in range(len(TASKS))
            ]
            rows.append([design.name, f"{difference:g}", *(f"{rate:.0%}" for rate in found)])
    return table(["design", "difference", *TASKS], rows)


def unlike_normal(replicates: int) -> str:
    """No difference, scores that are not normal at all."""
    rows = []
    for sample in (ceiling, two_outcomes, heavy_tails):
        for settings, seeds in ((1, 1), (1, 3), (1, 5), (11, 1), (11, 3)):
            design = Design("", (settings,), seeds)
            drawn = draw_unlike_normal(sample, design, replicates=replicates, generator=generator())
            judged = judge(from_values(drawn.values, drawn.known, drawn.weight))
            cover = f"{judged.coverage(0.0).mean():.1%}"
            shape = f"{settings} setting{'s' * (settings > 1)}, {seeds} seed{'s' * (seeds > 1)}"
            name = sample.__name__.replace("_", " ")
            rates = [f"{judged.any_rate('better'):.2%}", f"{judged.all_rate('better'):.3%}", cover]
            rows.append([name, shape, *rates])
    header = ["scores", "design", "better on any task", "beats on all six", "intervals hold the truth"]
    return table(header, rows)


def sequential(floors: list[NoiseFloor], replicates: int) -> str:
    """The default plan for seeds until decided: words and seeds, one setting per task."""
    policy = UntilDecided()
    rows = []
    for difference in (0.0, *DIFFERENCES):
        design = Design("baseline", (1,), policy.looks[-1])
        drawn = draw(floors, design, difference, replicates=replicates, generator=generator())
        found = judge_sequentially(drawn, policy)
        rates = [f"{np.mean(found.words == word):.0%}" for word in ("better", "worse", "same", "undecided")]
        false = f"{np.mean(np.any(found.words == 'better', axis=-1)):.2%}" if difference == 0 else ""
        cover = found.coverage(difference)
        held = f"{cover.min():.1%} to {cover.max():.1%}"
        rows.append([f"{difference:g}", *rates, f"{found.seeds.mean():.1f}", held, false])
    header = ["difference", "better", "worse", "same", "undecided", "seeds", "intervals hold the truth"]
    return table([*header, "better on any (false)"], rows)


def failing(replicates: int) -> str:
    """A rule that solves its task but in some seeds, beside one that always does: the words, at one look."""
    rows = []
    for share in (0.5, 0.25, 0.1):
        for seeds in (1, 3, 8, 11, 13):
            fails = generator().random((seeds, replicates, 1)) < share
            ours, theirs = np.where(fails, 0.2, 1.0), np.full(fails.shape, 0.9995)
            drawn = Drawn(
                ours - theirs, np.full(fails.shape[1:], 2 * QUIET**2), np.full(1, 9.0), (ours, theirs)
            )
            words = judge_sequentially(drawn, UntilDecided((seeds,))).words
            rates = [f"{np.mean(words == word):.1%}" for word in ("worse", "same", "undecided")]
            rows.append([f"1 in {1 / share:g}", str(seeds), f"{(1 - share) ** seeds:.1%}", *rates])
    return table(["fails", "seeds", "no seed failed", "worse", "same", "undecided"], rows)


def near_the_ceiling(replicates: int) -> str:
    """No difference, normal noise cut off at 1: intervals where not all scores are at the ceiling."""
    rows = []
    for room in (0.05, 0.02, 0.01, 0.005):
        for looks in ((1,), (3,), (8,), (1, 2, 3, 5, 8)):
            drawn = draw(
                made_up_floors(), Design("", (1,), looks[-1]), 0.0, replicates=replicates,
                generator=generator(), levels=1 - room,
            )  # fmt: skip
            found = judge_sequentially(drawn, UntilDecided(looks))
            given = found.closed == 0
            held = (found.low <= 0) & (found.high >= 0)
            false = np.mean(np.any(found.words == "better", axis=-1))
            shares = (f"{np.mean(given):.0%}", f"{np.mean(held[given]):.1%}", f"{np.mean(held):.1%}")
            rows.append([f"{1 - room:g}", ", ".join(map(str, looks)), *shares, f"{false:.2%}"])
    header = ["true score", "looks after seeds", "not at the ceiling", "of these, intervals hold the truth"]
    return table([*header, "of all", "better on any (false)"], rows)


def resampling(floors: list[NoiseFloor], replicates: int) -> str:
    """Coverage of intervals from resampled seeds, from the own noise alone, and of ours."""
    rows = []
    random = generator()
    for seeds in (2, 3, 5, 10):
        drawn = draw(floors, Design("", (1,), seeds), 0.0, replicates=replicates, generator=generator())
        picks = random.integers(seeds, size=(2000, seeds))
        first = drawn.values[:, :, 0]
        ends = np.quantile(first[picks].mean(axis=1), [0.025, 0.975], axis=0)
        held = np.mean((ends[0] <= 0) & (ends[1] >= 0))
        own = judge(from_values(drawn.values, np.nan, 0.0))
        ours = judge(from_values(drawn.values, drawn.known, drawn.weight))
        narrower = np.median(own.high - own.low) / np.median(ours.high - ours.low)
        rates = (held, own.coverage(0).mean(), ours.coverage(0).mean())
        rows.append([str(seeds), *(f"{rate:.1%}" for rate in rates), f"{narrower:.2f}"])
    header = ["seeds", "resampled seeds", "own noise alone (t)", "moderated", "width of t / moderated"]
    return table(header, rows)


def main() -> None:
    """Make all tables, put them into the page, print the worst figures as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--replicates", type=int, default=20000)
    arguments = parser.parse_args()
    if arguments.replicates < 1:
        parser.error("--replicates: expected 1 or more")
    shipped = shipped_variance()
    floors, plain, measured = [shipped[task] for task in TASKS], made_up_floors(), measured_floors()
    count, fewer = arguments.replicates, max(arguments.replicates // 5, 100)
    error_table, worst = errors(floors, count)
    measured_errors, of_runs = errors(measured, count)
    worst |= {f"{name}_of_runs": value for name, value in of_runs.items()}
    plain_errors, _ = errors(plain, count)
    text = "\n\n".join(
        [
            f"### No difference anywhere, the noise of results/quick.csv ({count:,} comparisons per row)",
            measured_errors,
            f"### No difference anywhere, variance.json ({count:,} comparisons per row)",
            error_table,
            f"### No difference anywhere, every setting with a standard deviation of {MADE_UP:g}",
            plain_errors,
            f"### Power, the noise of results/quick.csv: one task differs ({fewer:,} comparisons per figure)",
            power(measured, fewer),
            f"### Power, variance.json: one task differs ({fewer:,} comparisons per figure)",
            power(floors, fewer),
            f"### Power, every setting with a standard deviation of {MADE_UP:g}",
            power(plain, fewer),
            f"### No difference, scores that are not normal ({fewer:,} comparisons per row)",
            unlike_normal(fewer),
            f"### Seeds until decided: looks at 1, 2, 3, 5, 8 seeds, deviation {MADE_UP:g}, all tasks alike",
            sequential(plain, count),
            f"### Near the ceiling, no difference, deviation {MADE_UP:g} before the cut ({fewer:,} per row)",
            near_the_ceiling(fewer),
            "### A rule that fails in some seeds (0.2, else 1.0) beside one that never does (0.9995)",
            failing(count),
            f"### Three kinds of interval: how often they hold the truth (deviation {MADE_UP:g}, 1 setting)",
            resampling(plain, fewer),
        ]
    )
    sys.stdout.write(text + "\n")
    if not arguments.check:
        page = PAGE.read_text(encoding="utf-8")
        before, after = page.split(BEGIN)[0], page.split(END)[1]
        PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")
    sys.stdout.write(json.dumps({name: round(value, 5) for name, value in worst.items()}) + "\n")


if __name__ == "__main__":
    exit_plainly(main)
