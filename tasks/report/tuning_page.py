"""The page of a tuning: what was chosen for every prompt, and its frontier."""

import base64
from collections.abc import Sequence
from dataclasses import replace

from styleclip_ops.metrics import Interval
from styleclip_ops.strength import StrengthPoint
from tasks.report.evaluation import Estimate, Group
from tasks.report.plots import Plot, frontier_plot
from tasks.report.scoring import Criteria
from tasks.report.templates import open_templates, read_part
from tasks.report.thumbnails import thumbnail_bytes
from tasks.store.folders import split_url
from tasks.tuning import MOST, ImageSet, Search, Tuned


def write_tuning_page(
    destination: str,
    tuned: Sequence[Tuned],
    images: ImageSet,
    search: Search,
    judged_by_itself: bool,
) -> str:
    """Write the page beside a manifest, as one file that loads nothing.

    Args:
        destination: URL of the manifest.
        tuned: What was found.
        images: What it was tried on.
        search: How.
        judged_by_itself: Whether the CLIP that made the edits judges them.

    Returns:
        Its URL.
    """
    templates = open_templates()
    templates.filters["base64"] = lambda content: base64.b64encode(content).decode()
    templates.filters["webp"] = thumbnail_bytes
    folder, name = split_url(destination)
    name = name.removesuffix(".parquet")
    html = templates.get_template("tuning.html").render(
        name=name,
        style=read_part("page.css"),
        tuned=[(one, _plot(one, search)) for one in tuned],
        images=images,
        target=search.target,
        judged_by_itself=judged_by_itself,
        most=MOST,
    )
    folder.write(f"{name}.html", html.encode())
    return folder.url_of(f"{name}.html")


def _plot(tuned: Tuned, search: Search) -> Plot | None:
    """The frontier of every budget; None where nothing was scored."""
    method, target = tuned.instruction.method, search.target
    curves = {
        f"{budget.num_channels} ch." if budget.num_channels else method: [
            _group(tuned, point) for point in budget.points
        ]
        for budget in tuned.budgets
        if budget.points
    }
    if not curves:
        return None
    # A curve of a tuning has a dozen strengths, one of a report a handful.
    plot = frontier_plot(curves, Criteria(target.directional, target.identity), size=1.5)
    budgets = " and number of channels (ch.)" if method == "global" else ""
    caption = f"Directional similarity against identity kept, by alpha{budgets}; dashed, the target"
    return replace(plot, caption=caption)


def _group(tuned: Tuned, point: StrengthPoint) -> Group:
    """A point as the plots of a report take it, with the interval of the one that was chosen."""
    scores = {"directional_edit": point.directional, "identity_edit": point.identity}
    chosen = point is tuned.chosen
    return Group(
        method=tuned.instruction.method,
        target_prompt=tuned.instruction.target_prompt,
        alpha=point.alpha,
        pairs=point.num_images,
        faces=point.num_images,
        settings=1,
        statuses={"ok": point.num_images},
        scores={name: _estimate(point.num_images, s, chosen) for name, s in scores.items()},
        seconds=Estimate(),
    )


def _estimate(count: int, interval: Interval, ends: bool) -> Estimate:
    return Estimate(count, count, *(interval if ends and count > 1 else interval[:1]))
