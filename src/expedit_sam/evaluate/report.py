"""What an evaluation found: means with intervals, as a table, a json and a plot."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from expedit_sam.appearing import appearing_together
from expedit_sam.evaluate.costs import EncoderCost
from expedit_sam.evaluate.metrics import Mean, mean_over_images
from expedit_sam.evaluate.prompts import EVERYTHING
from expedit_sam.evaluate.records import Figures
from expedit_sam.hourglass.written import EXACT

# By contestant, prompt and metric.
Summary = dict[str, dict[str, dict[str, Mean]]]

_PROMPTED = {
    "iou": "mIoU",
    "best_iou": "best of three",
    "boundary_f": "boundary F",
    "change": "mIoU - exact",
    "same_as_exact": "IoU with exact",
    "seconds": "seconds",
}
_EVERYTHING = {
    "recall_50": "recall at 0.5",
    "recall_75": "recall at 0.75",
    "iou": "best IoU",
    "change": "best IoU - exact",
    "same_as_exact": "IoU with exact",
    "masks": "masks",
    "seconds": "seconds",
}
_PLAIN = ("masks", "seconds")  # in the table without an interval


def summarize(results: Mapping[str, Sequence[Figures]], seed: int) -> Summary:
    """Means over all regions (or images), with 95 % intervals over images.

    Arguments:
        results: by contestant, the figures of each image, in one order for all.
        seed: of the intervals.
    """
    summary: Summary = {}
    for contestant, images in results.items():
        summary[contestant] = {}
        for kind in images[0]:
            metrics = dict.fromkeys(name for image in images for name in image[kind])
            columns = {name: [image[kind].get(name, []) for image in images] for name in metrics}
            summary[contestant][kind] = {
                name: mean_over_images(column, seed)
                for name, column in columns.items()
                if any(column)
            }
    return summary


def write_report(
    folder: Path, summary: Summary, costs: Mapping[str, EncoderCost], about: dict[str, Any]
) -> list[Path]:
    """Write ``report.md``, ``report.json`` and ``report.png``, all of them or none.

    Arguments:
        folder: where; made if it is missing.
        summary: the means (``summarize``).
        costs: of the image encoder, by setting.
        about: what was evaluated, and how.

    Returns:
        the files.
    """
    document = {
        "about": about,
        "encoder": {name: asdict(cost) for name, cost in costs.items()},
        "results": {
            contestant: {
                kind: {name: asdict(mean) for name, mean in metrics.items()}
                for kind, metrics in kinds.items()
            }
            for contestant, kinds in summary.items()
        },
    }
    contents = {
        "report.md": tables(summary, costs).encode(),
        "report.json": json.dumps(document, indent=2).encode(),
        "report.png": _picture(summary),
    }
    with appearing_together(folder) as place:
        for name, content in contents.items():
            (place / name).write_bytes(content)
    return [folder / name for name in contents]


def tables(summary: Summary, costs: Mapping[str, EncoderCost]) -> str:
    """Markdown: a table of the image encoder at each setting, and one for each prompt."""
    parts = [_markdown("image encoder", *_encoder_rows(summary, costs))]
    for kind in summary[EXACT]:
        known = _EVERYTHING if kind == EVERYTHING else _PROMPTED
        measured = {name for kinds in summary.values() for name in kinds.get(kind, {})}
        columns = {name: title for name, title in known.items() if name in measured}
        rows = [
            [contestant, *(_cell(kinds[kind], name) for name in columns)]
            for contestant, kinds in summary.items()
            if kind in kinds
        ]
        parts.append(_markdown(kind, ["method", *columns.values()], rows))
    return "\n".join(parts)


def pareto_front(points: Mapping[str, tuple[float, float]]) -> list[str]:
    """Names of the (seconds, quality) points that no other beats in both, fastest first."""
    front: list[str] = []
    for name in sorted(points, key=lambda name: (points[name][0], -points[name][1])):
        if not front or points[name][1] > points[front[-1]][1]:
            front.append(name)
    return front


def _encoder_rows(
    summary: Summary, costs: Mapping[str, EncoderCost]
) -> tuple[list[str], list[list[str]]]:
    seconds = {
        name: mean
        for name in costs
        for metrics in summary[name].values()
        if (mean := metrics.get("encoder_seconds"))
    }
    rows = []
    for name, cost in costs.items():
        timed = ["-", "-"]
        if name in seconds:
            faster = seconds[EXACT].value / seconds[name].value
            timed = [f"{seconds[name].value:.3f}", f"{faster:.2f}"]
        runs = [str(cost.tokens.count(n)) + " x " + str(n) for n in dict.fromkeys(cost.tokens)]
        rows.append([name, *timed, f"{cost.multiply_adds / 1e9:.1f}", ", ".join(runs)])
    head = ["setting", "seconds", "times faster", "G multiply-adds", "blocks x tokens"]
    return head, rows


def _cell(metrics: Mapping[str, Mean], name: str) -> str:
    if name not in metrics:
        return "-"
    mean = metrics[name]
    if name in _PLAIN:
        return f"{mean.value:.3g}"
    sign = "+" if name == "change" else ""
    return f"{mean.value:{sign}.3f} [{mean.low:{sign}.3f}, {mean.high:{sign}.3f}]"


def _markdown(title: str, head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    table = Table(box=box.MARKDOWN)
    for number, name in enumerate(head):
        table.add_column(name, justify="right" if number else "left", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    text = io.StringIO()
    Console(file=text, width=1000, color_system=None, markup=False).print(table)
    return f"### {title}\n\n{text.getvalue().strip()}\n"


def _picture(summary: Summary) -> bytes:
    """Quality against time, a panel a prompt, a point a contestant, the Pareto front drawn."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator, NullFormatter

    kinds = list(summary[EXACT])
    figure = Figure(figsize=(1 + 4 * len(kinds), 5), layout="constrained")
    for axes, kind in zip(figure.subplots(1, len(kinds), squeeze=False)[0], kinds, strict=True):
        quality, asked = ("recall_50", "all masks") if kind == EVERYTHING else ("iou", "one prompt")
        axes.set(title=kind, xlabel=f"seconds: image and {asked}", xscale="log")
        axes.set_ylabel("recall at IoU 0.5" if kind == EVERYTHING else "mIoU")
        places = {}
        for number, (name, metrics) in enumerate(summary.items()):
            if quality not in metrics.get(kind, {}):
                continue
            seconds, mean = metrics[kind]["seconds"].value, metrics[kind][quality]
            places[name] = (seconds, mean.value)
            spread = [[mean.value - mean.low], [mean.high - mean.value]]
            axes.errorbar(
                *places[name], yerr=spread, color=f"C{number}", marker="o", capsize=3, label=name
            )
        front = [places[name] for name in pareto_front(places)]
        axes.plot(*zip(*front, strict=True), color="grey", linestyle="--", zorder=0)
        times = [seconds for seconds, _ in places.values()]
        axes.set_xlim(min(times) / 1.5, max(times) * 1.5)  # one point alone gives none
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    shown: dict[str, Any] = {}
    for axes in figure.axes:
        points, names = axes.get_legend_handles_labels()
        shown |= dict(zip(names, points, strict=True))
    figure.legend(list(shown.values()), list(shown), loc="outside lower center", ncols=4)
    content = io.BytesIO()
    figure.savefig(content, format="png", dpi=120)
    return content.getvalue()
