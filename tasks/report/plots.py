"""Plots of an evaluation, as SVG that follows the reader's light or dark colour scheme.

No prompt enters a plot, because fonts and text directions are the page's business: pages write the
prompts beside it.
"""

import io
from collections.abc import Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.path import Path as MplPath
from matplotlib.text import Annotation
from matplotlib.ticker import LogLocator, NullFormatter
from matplotlib.transforms import Bbox

from tasks.report.evaluation import Estimate, Group, Numbers
from tasks.report.scoring import Criteria

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "styleclip",
    "font.family": "sans-serif",
    "font.size": 9,
    "text.parse_math": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.8,
    "xtick.major.size": 3,
    "ytick.major.size": 3,
}
_INCHES, _HEIGHT = 3.8, 3.1

# Colours of a role, on light and on dark. Series are those of Okabe and Ito, made to contrast.
_COLORS = {
    "#010101": ("#26231f", "#e9e6e0"),
    "#020202": ("#6a655d", "#a8a39a"),
    "#030303": ("#cfc9bf", "#4a4741"),
    "#040404": ("#8f887c", "#8a847a"),
    "#090909": ("#ffffff", "#211f1d"),
    "#050505": ("#0072b2", "#56b4e9"),
    "#060606": ("#c14f00", "#f0a04b"),
    "#070707": ("#007d5b", "#3ecfa0"),
    "#080808": ("#a8558a", "#e29fcb"),
}
_INK, _QUIET, _LINE, _BAR, _PAPER, *_SERIES = _COLORS
_MARKERS = "os^D"
# Of a point, where its label may lie: right or left, above or below.
_CORNERS = ((1, 1), (-1, 1), (1, -1), (-1, -1))
_METHODS = ("global", "mapper", "optimize")

# Single values are drawn up to this many.
_FEW = 80
# An axis of losses reaches at least so far.
_LEAST_LOSS = 0.001


@dataclass(frozen=True)
class Plot:
    """A vector graphic.

    Attributes:
        caption: What it shows.
        svg: The document.
        width: Points.
        height: Points.
    """

    caption: str
    svg: bytes
    width: int
    height: int


def frontier_plot(
    strengths: Mapping[str, Sequence[Group]], criteria: Criteria, size: float = 1.0
) -> Plot:
    """Draw what the strength buys and costs: directional similarity against identity over alpha.

    Args:
        strengths: Groups of one prompt with ascending alpha, by method, or by names of one's own.
        criteria: Whose thresholds are drawn.
        size: How many times as large it is as the plots of a report.
    """
    figure, (axes,) = _figure(size * _HEIGHT, bottom=0.5, width=size * _INCHES)
    axes.axvline(criteria.identity, color=_LINE, linestyle=(0, (4, 3)), linewidth=1, zorder=0)
    axes.axhline(criteria.directional, color=_LINE, linestyle=(0, (4, 3)), linewidth=1, zorder=0)
    labels = list[tuple[Group, Estimate, Estimate, str]]()
    for number, (name, groups) in enumerate(strengths.items()):
        series = _place(name) if name in _METHODS else number % len(_SERIES)
        scores = [(g, g.scores["identity_edit"], g.scores["directional_edit"]) for g in groups]
        known = [(g, x, y) for g, x, y in scores if x.mean is not None and y.mean is not None]
        if known:
            _, identity, directional = zip(*known, strict=True)
            _frontier_line(axes, name, series, identity, directional)
            labels += [(g, x, y, _SERIES[series]) for g, x, y in known]
    axes.set_xlabel("identity kept (cosine)")
    axes.set_ylabel("directional similarity")
    axes.margins(0.12)
    _name_strengths(axes, labels)
    _legend(figure, axes)
    return _plot(figure, "What strength buys and costs: means at each alpha; dashed, the criteria")


def spread_plot(values: Mapping[str, Mapping[str, Numbers]]) -> Plot:
    """Draw how directional similarity and identity of one prompt spread.

    Args:
        values: By score and method.
    """
    methods = [*values["directional_edit"]]
    figure, panels = _figure(_panels_height(methods), 2, methods)
    titles = {"directional_edit": "directional similarity", "identity_edit": "identity kept"}
    for axes, (name, title) in zip(panels, titles.items(), strict=True):
        _spread(axes, values[name])
        axes.set_title(title, loc="left", fontsize=9, color=_QUIET)
    return _plot(
        figure, "How pairs of all strengths spread: 5 to 95 %, the middle half, the median"
    )


def loss_plot(groups: Mapping[str, Group]) -> Plot:
    """Draw what the inversion and the edit each cost, for one prompt by method.

    Args:
        groups: All strengths of a method, by method.
    """
    figure, panels = _figure(_panels_height(groups), 2, [*groups])
    titles = {
        "identity": "identity lost (1 - cosine)",
        "image": "image changed (1 - cosine)",
    }
    for axes, (kind, title) in zip(panels, titles.items(), strict=True):
        for place, group in enumerate(groups.values()):
            _loss_bars(axes, place, group, kind)
        _name_rows(axes, list(groups))
        # Cosines of what did not change may round to above 1, so that every bar ends at 0 or below.
        axes.set_xlim(0, max(axes.get_xlim()[1], _LEAST_LOSS))
        axes.set_title(title, loc="left", fontsize=9, color=_QUIET)
    _legend(figure, panels[0])
    return _plot(figure, "What the inversion and the edit each lose, mean over all strengths")


def timing_plot(seconds: Mapping[str, Numbers]) -> Plot:
    """Draw how the seconds of an edit spread, by method."""
    methods = [*seconds]
    figure, (axes,) = _figure(1.0 + 0.35 * len(methods), 1, methods, bottom=0.5)
    positive = {method: values[values > 0] for method, values in seconds.items()}
    if any(len(values) for values in positive.values()):
        axes.set_xscale("log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 3)))
        axes.xaxis.set_major_formatter("{x:g}")
        axes.xaxis.set_minor_formatter(NullFormatter())
    _spread(axes, positive)
    axes.set_xlabel("seconds a pair (logarithmic)")
    return _plot(figure, "Seconds of an edit with its scores")


def status_plot(caption: str, statuses: Mapping[str, int]) -> Plot:
    """Draw how many faces or pairs ended with each status."""
    names = [name for name, _ in sorted(statuses.items(), key=lambda item: -item[1])]
    figure, (axes,) = _figure(0.8 + 0.3 * len(names), 1, names)
    colors = [_BAR if name == "ok" else _SERIES[1] for name in names]
    bars = axes.barh(range(len(names)), [statuses[n] for n in names], color=colors, height=0.6)
    axes.bar_label(bars, padding=3, color=_INK)
    axes.margins(x=0.15)
    _name_rows(axes, names)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    return _plot(figure, caption)


def stages_plot(seconds: Mapping[str, float]) -> Plot:
    """Draw how long each stage took."""
    figure, (axes,) = _figure(0.8 + 0.3 * len(seconds), 1, [*seconds])
    bars = axes.barh(range(len(seconds)), [*seconds.values()], color=_SERIES[0], height=0.6)
    axes.bar_label(bars, [f"{value:,.3g} s" for value in seconds.values()], padding=3, color=_INK)
    axes.margins(x=0.25)
    _name_rows(axes, [*seconds])
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    return _plot(figure, "Seconds of work in every stage, added up over workers")


def ordered_methods(methods: Iterable[str]) -> list[str]:
    """Return the different methods, those of the paper first."""
    found = dict.fromkeys(map(str, methods))
    return [m for m in _METHODS if m in found] + [m for m in found if m not in _METHODS]


def _frontier_line(
    axes: Axes,
    name: str,
    series: int,
    identity: Sequence[Estimate],
    directional: Sequence[Estimate],
) -> None:
    x, y = [e.mean or 0.0 for e in identity], [e.mean or 0.0 for e in directional]
    axes.errorbar(
        x,
        y,
        xerr=_errors(identity),
        yerr=_errors(directional),
        label=_plain(name),
        color=_SERIES[series],
        marker=_MARKERS[series],
        markersize=5,
        linewidth=1.6,
        elinewidth=0.7,
    )


def _name_strengths(axes: Axes, labels: Sequence[tuple[Group, Estimate, Estimate, str]]) -> None:
    """Write each alpha beside its point, where it hides no other and the fewest lines cross it."""
    placed = list[Bbox]()
    # Else only drawing would find out where the points are.
    axes.autoscale_view()
    lines = [*_drawn_lines(axes, labels)]
    for group, x, y, color in sorted(labels, key=lambda label: label[1].low is None):
        told = axes.annotate(
            f"{group.alpha:g}",
            (x.mean or 0.0, y.mean or 0.0),
            (0, 0),
            textcoords="offset points",
            color=color,
            fontsize=8,
            # Above the intervals, which else cross out the digits.
            bbox={"facecolor": _PAPER, "edgecolor": "none", "boxstyle": "square,pad=0.05"},
        )
        found = dict[tuple[int, int], tuple[int, Bbox]]()
        for corner in _CORNERS:
            _move(told, corner)
            box = told.get_window_extent()
            if not any(box.overlaps(other) for other in placed):
                crossed = sum(line.intersects_bbox(box, filled=False) for line in lines)
                found[corner] = (crossed, box)
        if not found:
            told.remove()
            continue
        best = min(found, key=lambda corner: found[corner][0])
        _move(told, best)
        placed.append(found[best][1])


def _move(told: Annotation, corner: tuple[int, int]) -> None:
    """Let a text touch its point with the corner that lies there."""
    right, up = corner
    told.set_position((4 * right, 4 * up))
    told.set_horizontalalignment("left" if right > 0 else "right")
    told.set_verticalalignment("bottom" if up > 0 else "top")


def _drawn_lines(
    axes: Axes, labels: Sequence[tuple[Group, Estimate, Estimate, str]]
) -> Iterator[MplPath]:
    """The lines from point to point and the intervals, in pixels."""
    for _, series in groupby(labels, key=lambda label: label[3]):
        means = list[tuple[float, float]]()
        for _, x, y, _ in series:
            across, up = x.mean or 0.0, y.mean or 0.0
            means.append((across, up))
            if x.low is not None and x.high is not None:
                yield _in_pixels(axes, [(x.low, up), (x.high, up)])
            if y.low is not None and y.high is not None:
                yield _in_pixels(axes, [(across, y.low), (across, y.high)])
        yield _in_pixels(axes, means)


def _in_pixels(axes: Axes, points: Sequence[tuple[float, float]]) -> MplPath:
    return MplPath(axes.transData.transform(points))


def _errors(estimates: Sequence[Estimate]) -> list[list[float]]:
    """Distances from the means to the ends of their intervals, 0 where there is none."""
    ends = [(e.mean or 0.0, e.low, e.high) for e in estimates]
    below = [max(mean - low, 0.0) if low is not None else 0.0 for mean, low, _ in ends]
    above = [max(high - mean, 0.0) if high is not None else 0.0 for mean, _, high in ends]
    return [below, above]


def _spread(axes: Axes, series: Mapping[str, Numbers]) -> None:
    """Draw a row for each series: 5 to 95 %, the middle half, the median, single values if few."""
    random = np.random.default_rng(0)
    for place, (method, values) in enumerate(series.items()):
        known, color = values[~np.isnan(values)], _color(method)
        if not len(known):
            continue
        low, first, median, third, high = np.quantile(known, [0.05, 0.25, 0.5, 0.75, 0.95])
        if len(known) <= _FEW:
            jitter = place + random.uniform(-0.3, 0.3, len(known))
            axes.plot(known, jitter, ".", color=color, markersize=3, alpha=0.45)
        axes.plot([low, high], [place, place], color=color, linewidth=1)
        axes.plot([first, third], [place, place], color=color, linewidth=5, alpha=0.55)
        axes.plot(median, place, _marker(method), color=color, markersize=6)
    _name_rows(axes, list(series))


def _loss_bars(axes: Axes, place: int, group: Group, kind: str) -> None:
    losses = {}
    for part in ("inversion", "edit", "total"):
        mean = group.scores[f"{kind}_{part}"].mean
        losses[part] = np.nan if mean is None else 1 - mean
    # Labels of the first row alone make the legend.
    label = {part: "" if place else part for part in losses}
    shared: dict[str, Any] = {"height": 0.3}
    axes.barh(place - 0.17, losses["inversion"], color=_BAR, label=label["inversion"], **shared)
    axes.barh(place + 0.17, losses["edit"], color=_SERIES[3], label=label["edit"], **shared)
    total = losses["total"]
    axes.errorbar(total, place, fmt="D", color=_INK, markersize=5, label=label["total"])


def _figure(
    height: float,
    panels: int = 1,
    names: Sequence[str] = (),
    bottom: float = 0.3,
    width: float = _INCHES,
) -> tuple[Figure, Sequence[Axes]]:
    """Lay out panels above each other; lengths are inches, names are those of their rows."""
    left = 0.15 + 0.075 * max((len(name) for name in map(_plain, names)), default=6)
    top, gap = 0.45, 0.5
    panel = (height - top - bottom - gap * (panels - 1)) / panels
    with mpl.rc_context(_SETTINGS):
        figure = Figure((width, height))
        figure.subplots_adjust(
            left=left / width,
            right=1 - 0.15 / width,
            bottom=bottom / height,
            top=1 - top / height,
            hspace=gap / panel,
        )
        grid: list[Axes] = [figure.add_subplot(panels, 1, 1 + place) for place in range(panels)]
    for axes in grid:
        axes.locator_params(nbins=5)
        axes.tick_params(colors=_QUIET, labelcolor=_INK)
        axes.spines[:].set_color(_LINE)
        for axis in (axes.xaxis, axes.yaxis):
            axis.label.set_color(_QUIET)
    return figure, grid


def _panels_height(rows: Sized) -> float:
    """Inches of two panels; as high as a frontier plot up to three rows."""
    return _HEIGHT + 0.6 * max(0, len(rows) - 3)


def _legend(figure: Figure, axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        figure.legend(
            handles,
            labels,
            loc="upper left",
            bbox_to_anchor=(0, 1),
            borderaxespad=0.1,
            ncols=4,
            frameon=False,
            fontsize=9,
            labelcolor=_INK,
            columnspacing=1.2,
        )


def _name_rows(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [_plain(name) for name in names])
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)


def _plot(figure: Figure, caption: str) -> Plot:
    sink = io.StringIO()
    with mpl.rc_context(_SETTINGS):
        figure.savefig(sink, format="svg", transparent=True, metadata={"Date": None})
    text = sink.getvalue()
    schemes = [
        ";".join(f"--c{index}:{pair[scheme]}" for index, pair in enumerate(_COLORS.values()))
        for scheme in (0, 1)
    ]
    style = f":root{{{schemes[0]}}}@media(prefers-color-scheme:dark){{:root{{{schemes[1]}}}}}"
    for index, color in enumerate(_COLORS):
        text = text.replace(color, f"var(--c{index})")
    svg = text.replace("</style>", style + "</style>", 1).encode()
    width, height = (round(72 * inches) for inches in figure.get_size_inches())
    return Plot(caption, svg, width, height)


def _color(method: str) -> str:
    return _SERIES[_place(method)]


def _marker(method: str) -> str:
    return _MARKERS[_place(method)]


def _place(method: str) -> int:
    return _METHODS.index(method) if method in _METHODS else len(_METHODS)


def _plain(name: str) -> str:
    """A name as every font can write it."""
    return "".join(sign if " " <= sign <= "~" else "?" for sign in name[:24])
