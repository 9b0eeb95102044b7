from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image

from mobilevit import Recipe
from mobilevit.data.folders import Folders, Sample
from mobilevit.studies.folder import Result, StudyFolder, Trained
from mobilevit.studies.plots import _draw_rows, draw_accuracy, draw_curves
from mobilevit.studies.report import PAPER, StudyReport, write_report
from mobilevit.studies.study import Entry, Study

MEASURES = {
    "parameters": 954_234,
    "backbone_parameters": 951_024,
    "machine": "a processor",
    "multiply_adds": 101_000_000,
    "onnx_ms": 5.25,
}


def result(name: str, values: list[float], paper: float | None = None, **more: Any) -> Result:
    """An entry whose trainings ended with these values on val."""
    trained = [
        Trained(
            seed,
            tuple(
                {"epoch": epoch, "val_top1": v, "train_top1": v - 0.1, "seconds": 60.0 * epoch}
                for epoch, v in ((1, value / 2), (2, value))
            ),
            {"machine": "x86", "torch": "2.14", "started": f"2026-01-0{seed + 1}T10:00"},
            Path("last.safetensors"),
        )
        for seed, value in enumerate(values)
    ]
    given = {"tried": {}, "rate": 0.002, "measures": {}, "diverged": ()} | more
    return Result(Entry(name, paper=paper), trained=tuple(trained), metric="top1", **given)


def comparison(*results: Result, seeds: int = 2, val: int = 4000) -> StudyReport:
    return StudyReport("told", Path("x"), "photos", val, results, seeds, 2)


def cells(table: tuple[tuple[str, ...], list[tuple[str, ...]]], row: int) -> dict[str, str]:
    header, rows = table
    return dict(zip(header, rows[row], strict=True))


def test_a_line_has_mean_spread_and_number_of_trainings() -> None:
    told = comparison(result("A", [0.5, 0.6], measures=MEASURES), result("B", [0.7]))
    table = told.tables()["Accuracy and cost"]
    line = cells(table, 0)
    assert line["top-1 % (runs)"] == "55.0 ± 7.1 (2)"  # the deviation of 50 and 60
    assert (line["without classifier"], line["MACs M"], line["ONNX ms"]) == ("0.95", "101", "5.2")
    assert (line["train − val"], line["training min"], line["lr"]) == ("-10.0", "2.0", "0.002")
    assert cells(table, 1)["top-1 % (runs)"] == "70.0 (1)"
    assert cells(table, 1)["params M"] == ""


def test_what_nobody_measured_has_no_column() -> None:
    header, _ = comparison(result("A", [0.5])).tables()["Accuracy and cost"]
    assert "ONNX ms" not in header
    assert list(comparison(result("A", [0.5])).tables()) == ["Accuracy and cost"]


def test_what_is_missing_is_said() -> None:
    assert "UNFINISHED: 3 of 4" in comparison(result("A", [0.5]), result("B", [])).to_markdown()
    done = comparison(result("A", [0.5, 0.6]))
    assert done.missing == 0
    assert "UNFINISHED" not in done.to_markdown()


def test_it_is_said_when_and_on_what_it_ran() -> None:
    told = comparison(result("A", [0.5, 0.6], measures=MEASURES)).heading
    assert "trained 2026-01-01 to 2026-01-02 on x86, torch 2.14" in told
    assert "on one thread: a processor" in told


def test_a_name_does_not_break_the_table() -> None:
    assert "| A\\|B |" in comparison(result("A|B", [0.5])).to_markdown()


def test_a_rate_at_the_edge_of_what_was_tried_is_marked() -> None:
    for rate, marked in ((0.001, True), (0.002, False), (0.004, True)):
        tried = {0.001: 0.1, 0.002: 0.2, 0.004: 0.3}
        told = comparison(result("A", [0.5], tried=tried, rate=rate))
        line = cells(told.tables()["Accuracy and cost"], 0)
        assert ("(edge)" in line["lr"]) is marked


@pytest.mark.parametrize(
    ("here", "paper", "verdict"),
    [
        (0.55, 77.0, "yes, by one training"),
        (0.65, 77.0, "no, by one training"),
        (0.605, 77.0, "too close to tell"),
    ],
)
def test_a_difference_is_held_against_the_papers(here: float, paper: float, verdict: str) -> None:
    told = comparison(result("base", [0.6], 78.4), result("less", [here], paper))
    line = cells(told.tables()[PAPER], 1)
    assert line["the same way"] == verdict
    assert (line["paper %"], line["paper Δ"]) == ("77.0", "-1.4")


def test_trainings_that_agree_exactly_are_more_than_one() -> None:
    told = comparison(result("base", [0.6, 0.6], 78.4), result("less", [0.5, 0.5], 77.0))
    assert cells(told.tables()[PAPER], 1)["the same way"] == "yes"


def test_an_entry_without_a_number_of_the_paper_is_not_held_against_it() -> None:
    told = comparison(result("base", [0.6], 78.4), result("other", [0.5]))
    assert [row[0] for row in told.tables()[PAPER][1]] == ["base"]


def test_robustness_is_averaged_over_the_strengths() -> None:
    tough = {
        "clean": 0.8,
        "corrupted": {"noise": [0.7, 0.5], "blur": [0.6, 0.2]},
        "mean": 0.5,
        "relative": 0.625,
        "samples": 500,
        "sizes": {"96": 0.75},
    }
    told = comparison(result("A", [0.8], measures=MEASURES | {"robustness": tough}))
    line = cells(told.tables()["Robustness, top-1 on 500 val pictures, seed 0"], 0)
    assert line == {
        **{"network": "A", "clean": "80.0", "noise": "60.0", "blur": "40.0"},
        **{"mean": "50.0", "of clean": "62.5", "96 px": "75.0"},
    }


def test_the_plots_show_what_is_done(tmp_path: Path) -> None:
    done = result("A-1", [0.5, 0.6], measures=MEASURES)
    for draw in (draw_accuracy, draw_curves):
        draw(tmp_path / "none.png", [result("A", [])])
        assert not (tmp_path / "none.png").exists()
        draw(tmp_path / "some.png", [done, result("B", [])])
        picture = np.asarray(Image.open(tmp_path / "some.png").convert("RGB"))
        assert picture.std() > 5


def test_the_curves_show_every_training(tmp_path: Path) -> None:
    pictures = []
    for accuracies in ([0.5], [0.5, 0.6]):
        draw_curves(tmp_path / "curves.png", [result("A", accuracies)])
        pictures.append(np.asarray(Image.open(tmp_path / "curves.png").convert("RGB")))
    assert (pictures[0] != pictures[1]).any()


def test_the_curve_of_one_epoch_is_a_dot() -> None:
    axes = Figure().subplots()
    _draw_rows(axes, [{"epoch": 1, "val_top1": 0.5}], "val_top1")
    _draw_rows(axes, [{"epoch": 1, "val_top1": 0.5}, {"epoch": 2, "val_top1": 0.6}], "val_top1")
    assert [line.get_marker() for line in axes.get_lines()] == [".", "None"]


def test_a_study_that_has_not_begun_has_a_report(tmp_path: Path) -> None:
    study = Study("told", (Entry("A"), Entry("B")), Recipe(), (0.001, 0.002))
    folders = Folders(("x",), (), (Sample(Path("a"), 0),), Path("photos"))
    told = write_report(StudyFolder(tmp_path, study, "top1"), folders)
    assert (told.missing, told.val, told.data) == (6, 1, "photos")
    assert [r.rate for r in told.results] == [None, None]
    assert "UNFINISHED: 6 of 6" in (tmp_path / "README.md").read_text()
