"""The plots of a study."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend import Legend

from mobilevit.files import replacing
from mobilevit.studies.folder import Result

COSTS = {
    "backbone_parameters": ("parameters without the classifier, M", 1e-6),
    "multiply_adds": ("multiply-adds, M", 1e-6),
    "onnx_ms": ("ONNX Runtime, one thread, ms", 1.0),
}


def draw_accuracy(path: Path, results: Sequence[Result]) -> None:
    """Draw the metric against what the networks cost, families joined by a line.

    Args:
        path: the PNG to write.
        results: of the study; those that are not trained and measured yet are left out.
    """
    done = [result for result in results if result.trained and result.measures]
    if not done:
        return
    families: dict[str, list[Result]] = {}
    for result in done:
        families.setdefault(result.entry.family or result.entry.name, []).append(result)
    figure = Figure(figsize=(5 * len(COSTS), 4.2), layout="constrained")
    for axes, (cost, (label, scale)) in zip(
        figure.subplots(1, len(COSTS)), COSTS.items(), strict=True
    ):
        for name, members in families.items():
            points = sorted((r.measures[cost] * scale, r.mean or 0, r.spread or 0) for r in members)
            x, y, spread = zip(*points, strict=True)
            axes.errorbar(x, [v * 100 for v in y], [s * 100 for s in spread], fmt="o-", label=name)
        _label(axes, label)
        axes.set_xlim(0, 1.05 * max(result.measures[cost] * scale for result in done))
    figure.axes[0].set_ylabel(f"{done[0].metric} on val, %")
    legend = figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside right upper")
    _as_they_are(legend)
    _save(figure, path)


def draw_curves(path: Path, results: Sequence[Result]) -> None:
    """Draw train and val over the epochs, a field for each group; of seeds beyond 0 val, faint.

    Args:
        path: the PNG to write.
        results: of the study; those that are not trained yet are left out.
    """
    groups: dict[str, list[Result]] = {}
    for result in results:
        if result.trained:
            groups.setdefault(result.entry.group, []).append(result)
    if not groups:
        return
    figure = Figure(figsize=(5 * len(groups), 4.2), layout="constrained")
    for axes, (group, members) in zip(
        figure.subplots(1, len(groups), squeeze=False).flat, groups.items(), strict=True
    ):
        for i, result in enumerate(members):
            first, *others = result.trained
            look = {"color": f"C{i}"}
            _draw_rows(axes, first.rows, f"val_{result.metric}", label=result.entry.name, **look)
            _draw_rows(axes, first.rows, f"train_{result.metric}", linestyle=":", **look)
            for other in others:
                _draw_rows(axes, other.rows, f"val_{result.metric}", alpha=0.35, **look)
        _label(axes, "epoch")
        axes.set_title(group, parse_math=False)
        _as_they_are(axes.legend(fontsize=8))
    figure.axes[0].set_ylabel(f"{members[0].metric}, %: val, and train dotted")
    _save(figure, path)


def _draw_rows(axes: Axes, rows: Sequence[Mapping[str, float]], value: str, **look: Any) -> None:
    epochs, values = [row["epoch"] for row in rows], [row[value] * 100 for row in rows]
    axes.plot(epochs, values, marker="." if len(rows) == 1 else None, **look)


def _as_they_are(legend: Legend) -> None:
    """Take names as they are, not as formulas between dollars."""
    for text in legend.get_texts():
        text.set_parse_math(False)


def _label(axes: Axes, text: str) -> None:
    axes.set_xlabel(text)
    axes.grid(alpha=0.3)


def _save(figure: Figure, path: Path) -> None:
    with replacing(path) as beside:
        figure.savefig(beside, dpi=110, format="png")
