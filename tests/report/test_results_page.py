"""results/report.py: the page's tables and figures from partial tables, and whether the page is current."""

from __future__ import annotations

import importlib.util
import re
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest
from tests.cli.program import output
from tests.report.test_costs import make_run

from archer.errors import UserError
from archer.judge import compare
from archer.ledger import write_runs
from archer.ledger.records import RunRecord
from archer.mad.presets import PRESETS
from archer.report.numbers import ends, signed
from archer.rules import get_rule

SCRIPT = Path(__file__).parents[2] / "results" / "report.py"
PAGE = "Words.\n\n<!-- results: quick -->\nstale words\n<!-- end: quick -->\n\nMore words.\n\n" \
       "<!-- results: agreement -->\n<!-- end: agreement -->\n"  # fmt: skip


@pytest.fixture(scope="module")
def script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("results_report", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


LEVELS = {"delta_net": 0.5, "softmax": 0.8, "hybrid": 0.2}


def some_runs() -> list[RunRecord]:
    """Three rules, three seeds; hybrid lacks Memorize, and Selective Copy nobody has."""
    return [
        make_run(rule, index, seed, level + 0.001 * seed * index)
        for rule, level in LEVELS.items()
        for index, setting in enumerate(PRESETS["quick"].settings)
        for seed in range(3)
        if setting.task != "Selective Copy" and (rule, setting.task) != ("hybrid", "Memorize")
    ]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    results, docs = tmp_path / "results", tmp_path / "docs"
    docs.mkdir()
    write_runs(results / "quick.csv", some_runs())
    (docs / "results.md").write_text(PAGE)
    return results, docs


def line_of(page: str, start: str, number: int = 0) -> list[str]:
    found = [line for line in page.splitlines() if line.startswith(f"| `{start}`")]
    return [cell.strip() for cell in found[number].strip("|").split("|")]


def test_the_page_is_written_anew_around_the_words(script: ModuleType, folders: tuple[Path, Path]) -> None:
    results, docs = folders
    assert script.write(results, docs, check=True) is False
    assert (docs / "results.md").read_text() == PAGE
    script.write(results, docs)
    page = (docs / "results.md").read_text()
    assert page.startswith("Words.")
    assert "More words." in page
    assert "stale words" not in page
    assert script.write(results, docs, check=True) is True
    assert line_of(page, "softmax")[1] == "0.800 (0.428)"
    assert line_of(page, "hybrid")[4] == "\u2013 (0.613)"  # Memorize
    assert "Selective Copy, 1 of 1 settings: `delta_net`, `hybrid`, `softmax`" in page
    assert "Memorize, 1 of 1 settings: `hybrid`" in page
    assert "0 rules: too few" in page
    drawn = sorted(path.name for path in (docs / "images").iterdir())
    assert drawn[0] == "results-quick-compress.svg"
    assert "results-quick-heat.svg" in drawn
    assert "results-quick-selective-copy.svg" not in drawn
    for name in drawn:
        assert f"images/{name}" in page
        assert "var(" not in (docs / "images" / name).read_text()


def test_a_difference_says_whether_the_history_holds(script: ModuleType, folders: tuple[Path, Path]) -> None:
    results, docs = folders
    script.write(results, docs)
    page = (docs / "results.md").read_text()
    softmax, hybrid = line_of(page, "softmax", 1), line_of(page, "hybrid", 1)
    assert "+0.300 [" in softmax[4]
    assert softmax[4].endswith("**better** (+0.376: same sign)")  # Memorize
    assert softmax[3].endswith(": other sign)")  # Fuzzy Recall: -0.056 then
    assert hybrid[4] == "\u2013 (+0.210)"
    assert softmax[2].endswith(": noise)")  # Context Recall: -0.013 then


@pytest.mark.parametrize(
    ("word", "earlier", "whole", "said"),
    [
        ("better", 0.2, True, "confirmed"),
        ("worse", 0.2, True, "contradicted"),
        ("same", -0.9, True, "contradicted"),
        ("worse", -0.2, False, "same sign"),
        ("better", -0.2, False, "other sign"),
        ("same", -0.9, False, "level here"),
        ("undecided", 0.2, True, "open"),
        ("better", 0.04, True, "noise"),
        ("better", None, True, "no claim"),
    ],
)
def test_only_whole_tasks_confirm_and_contradict(
    script: ModuleType, word: str, earlier: float | None, whole: bool, said: str
) -> None:
    """One setting of eleven says little of a mean over eleven."""
    line = replace(compare(some_runs(), "softmax", "delta_net", preset="quick").tasks[0], word=word)
    assert script.holds(line, earlier, whole) == said
    if said == "open":
        assert script.holds(replace(line, no_room="both"), earlier, whole) == "level here"


def test_where_two_rules_are_one_function_the_page_says_what_compare_says(
    script: ModuleType, folders: tuple[Path, Path]
) -> None:
    """decay is delta_net in one chunk: its own runs there are no difference, and need not be."""
    results, docs = folders
    quick = PRESETS["quick"].settings
    decay = [make_run("decay", index, seed, 0.4) for index in range(len(quick)) for seed in range(3)]
    base = [make_run("delta_net", index, seed, 0.5) for index in range(len(quick)) for seed in range(3)]
    untrained = [run for run in decay if run.task != "Memorize"]
    write_runs(results / "quick.csv", [*base, *untrained])
    script.write(results, docs)
    page = (docs / "results.md").read_text()
    asked = ("compare", "decay", "delta_net", "--from", results / "quick.csv")
    screen = {line[:14].strip(): line for line in output(*asked, columns=120).splitlines()}
    scores, differences = line_of(page, "decay"), line_of(page, "decay", 1)
    assert scores[1].startswith("0.400")
    assert scores[4].startswith("0.500")  # Memorize: the parent's
    assert "compute what their parent computes, whose runs count there: Memorize: `decay`." in page
    assert "Memorize, 1 of 1" not in page
    for column, task in ((1, "Compress"), (4, "Memorize")):
        assert differences[column].startswith("0.000 one function **same** (")
        assert "one function" in screen[task]
        assert "same" in screen[task]
    line = compare(untrained + base, "decay", "delta_net", preset="quick").tasks[2]
    assert line.task == "Fuzzy Recall"
    assert f"{signed(line.difference, '')} {ends(line, '')} **{line.word}**" in differences[3]
    assert ends(line, "").replace(", ", " ") in screen["Fuzzy Recall"]


def test_what_is_wrong_is_said(script: ModuleType, folders: tuple[Path, Path]) -> None:
    results, docs = folders
    for page in ("<!-- results: quick -->", "<!-- end: quick -->\n<!-- results: quick -->", PAGE + PAGE):
        (docs / "results.md").write_text(page)
        with pytest.raises(UserError, match="expected one line <!-- results: quick -->"):
            script.write(results, docs)
    (docs / "results.md").write_text("<!-- results: quik -->\n<!-- end: quik -->")
    with pytest.raises(UserError, match="no preset is called quik"):
        script.write(results, docs)
    write_runs(results / "baseline.csv", some_runs())
    with pytest.raises(UserError, match="runs of quick; expected those of baseline alone"):
        script.read_tables(results)


def test_rules_whose_text_has_changed_since_are_named(script: ModuleType, folders: tuple[Path, Path]) -> None:
    results, docs = folders
    texts = {rule: get_rule(rule).hash for rule in ("delta_net", "softmax")}
    runs = [replace(run, rule_hash=texts.get(run.rule, "0" * 12)) for run in some_runs()]
    write_runs(results / "quick.csv", runs)
    script.write(results, docs)
    assert "Trained with an earlier text of the rule: `hybrid`." in (docs / "results.md").read_text()


def test_a_table_without_a_place_gets_one_at_the_end(script: ModuleType, folders: tuple[Path, Path]) -> None:
    results, docs = folders
    (docs / "results.md").write_text("Words.\n")
    script.write(results, docs)
    page = (docs / "results.md").read_text()
    assert page.startswith("Words.\n\n## quick\n\n<!-- results: quick -->")
    assert script.write(results, docs, check=True) is True


def test_every_page_gets_the_blocks_that_it_has_places_for(
    script: ModuleType, folders: tuple[Path, Path]
) -> None:
    results, docs = folders
    runs = [replace(run, rule={"hybrid": "gated_delta_net"}.get(run.rule, run.rule)) for run in some_runs()]
    write_runs(results / "quick.csv", runs)
    (docs / "results.md").write_text("<!-- results: quick goal -->\n<!-- end: quick goal -->\n")
    (docs / "results-tables.md").write_text("Tables.\n")
    front = docs.parent / "README.md"
    front.write_text("<!-- results: main -->\n<!-- end: main -->\n")
    assert script.write(results, docs, check=True) is False
    script.write(results, docs)
    assert (docs / "results-tables.md").read_text().startswith("Tables.\n\n## quick\n")
    for page in (docs / "results.md", front):
        text = page.read_text()
        assert "## quick" not in text
        assert [name for name in LEVELS if f"| `{name}`" in text] == ["delta_net", "softmax"]
        assert line_of(text, "softmax")[1:3] == ["0.800 ▲", "0.801 ▲"]
        assert line_of(text, "gated_delta_net")[1] == "0.200"
        assert line_of(text, "delta_net")[6] == "\u2013"
        assert "Preset `quick`, seeds: 3." in text
    assert script.write(results, docs, check=True) is True


def test_without_a_table_the_page_says_so_and_old_figures_go(
    script: ModuleType, folders: tuple[Path, Path]
) -> None:
    results, docs = folders
    script.write(results, docs)
    assert [*(docs / "images").iterdir()]
    (docs / "images" / "run.png").touch()
    (results / "quick.csv").unlink()
    assert script.write(results, docs, check=True) is False
    script.write(results, docs)
    page = (docs / "results.md").read_text()
    assert "<!-- results: quick -->\n\nNo run of this preset yet.\n" in page
    assert [path.name for path in (docs / "images").iterdir()] == ["run.png"]
    assert script.write(results, docs, check=True) is True


def test_a_folder_that_is_not_there_takes_nothing_away(
    script: ModuleType, folders: tuple[Path, Path]
) -> None:
    results, docs = folders
    script.write(results, docs)
    before = {path: path.read_bytes() for path in docs.rglob("*") if path.is_file()}
    with pytest.raises(UserError, match="is no folder"):
        script.write(results / "absent", docs)
    with pytest.raises(UserError, match=r"holds no results\.md"):
        script.write(results, docs / "absent")
    assert {path: path.read_bytes() for path in docs.rglob("*") if path.is_file()} == before


def test_nothing_is_left_out_in_silence(
    script: ModuleType, folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    results, docs = folders
    runs = some_runs()
    early = [replace(r, rule_hash="0ld", key=f"{r.key}/old", finished_at="2025-01-01") for r in runs[:4]]
    other = [replace(r, setting="gone", key=f"{r.key}/gone", revision="r2") for r in runs[:3]]
    write_runs(results / "quick.csv", [*runs, *early, *other])
    write_runs(results / "calibration.csv", runs)
    script.write(results, docs)
    page = (docs / "results.md").read_text()
    assert "Left out: 4 runs of an earlier version of their rule." in page
    assert "Left out: 3 runs in a setting that the preset no longer has." in page
    assert "Trained by revision r." in page
    write_runs(results / "quick.csv", [replace(runs[0], revision="r2"), *runs[1:]])
    script.write(results, docs)
    assert "Trained by the revisions r, r2." in (docs / "results.md").read_text()
    monkeypatch.setattr(sys, "argv", ["report.py", "--results", str(results), "--docs", str(docs)])
    script.main()
    assert "not read: calibration.csv is the table of no preset" in capsys.readouterr().out


def test_the_page_of_this_repository_is_what_its_tables_say(script: ModuleType) -> None:
    """`python results/report.py` mends it."""
    root = SCRIPT.parents[1]
    assert script.write(root / "results", root / "docs", check=True)
    for page in sorted((root / "docs").glob("results*.md")):
        names = re.findall(r"""["(]images/(results-[^)"]+)[")]""", page.read_text())
        assert names
        assert all((root / "docs" / "images" / name).exists() for name in names)
