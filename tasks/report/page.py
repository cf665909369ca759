"""The page of a report: what it shows, and its HTML."""

import base64
import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from tasks.report.comparison import DRIFT_TOLERANCES, Comparison
from tasks.report.evaluation import Estimate, Evaluation, Group
from tasks.report.examples import RANK, Kind
from tasks.report.judgement import Judgement
from tasks.report.pictures import Picture
from tasks.report.plots import Plot
from tasks.report.templates import open_templates, read_part
from tasks.run_tables import Stage
from tasks.stopwatch import describe_duration

# The side of a small picture in CSS pixels; those of small models are enlarged to a multiple.
_TILE = 128
_NONE = "\N{EN DASH}"


@dataclass(frozen=True)
class EditTile:
    """An edited image of a strip."""

    pair_id: str
    alpha: float
    picture: Picture | None
    chosen: bool


@dataclass(frozen=True)
class Strip:
    """A face before and after its edits.

    Attributes:
        kind: Why it is shown.
        rank: What it was chosen by.
        image_id: Of the face.
        source: The aligned photograph.
        inversion: Its unedited rendering.
        edits: By ascending alpha.
    """

    kind: Kind
    rank: float
    image_id: str
    source: Picture | None
    inversion: Picture | None
    edits: Sequence[EditTile]


@dataclass(frozen=True)
class MethodPart:
    """What one method did for a prompt.

    Attributes:
        pooled: All strengths together.
        best: The best strength; None where no pair is scored.
        strengths: By ascending alpha.
        strips: Examples at the best strength.
    """

    pooled: Group
    best: Group | None
    strengths: Sequence[Group]
    strips: Sequence[Strip]


@dataclass(frozen=True)
class PromptPart:
    """What was done for a prompt.

    Attributes:
        prompt: The target prompt.
        neutral: The prompts that it was compared with.
        methods: The one with the best strength first.
        plots: By their address.
    """

    prompt: str
    neutral: Sequence[str]
    methods: Sequence[MethodPart]
    plots: Mapping[str, Plot]


@dataclass(frozen=True)
class SideBySide:
    """A pair as two runs made it.

    Attributes:
        why: It is shown.
        pair_id: Of this run's row.
        image_id: Of the face.
        prompt: The target prompt.
        method: How it was edited.
        alpha: Its strength.
        source: The aligned photograph.
        mine: This run's edited image.
        theirs: The other run's.
    """

    why: str
    pair_id: str
    image_id: str
    prompt: str
    method: str
    alpha: float
    source: Picture | None
    mine: Picture | None
    theirs: Picture | None


@dataclass(frozen=True)
class ComparisonPart:
    """What a page shows of another run.

    Attributes:
        comparison: The numbers.
        drift: Every drift in words.
        sides: Pairs to look at.
    """

    comparison: Comparison
    drift: Sequence[str]
    sides: Sequence[SideBySide]


@dataclass(frozen=True)
class Page:
    """All that a page shows.

    Attributes:
        name: Of the run.
        facts: What was run, as plain text by name.
        notes: What a reader must know before trusting the numbers.
        evaluation: The numbers.
        waiting: Planned pairs without a result.
        faces: Different faces that were edited.
        methods: In the order of their columns.
        prompts: The first of them, in the order of the manifest.
        prompt_count: Of all.
        plots: Those of the whole run by their address.
        glossary: What the scores are, in words by name.
        gallery: See `tasks.report.gallery.gallery_columns`.
        side: Pixels of the edited images.
        instruments: What measured, by the kind of number.
        own_judge: Whether the CLIP that judges steered all edits.
        judgement: What networks said of the pictures again.
        stages: What every stage did.
        comparisons: With other runs.
        drift_rule: What counts as drift.
    """

    name: str
    facts: Mapping[str, str]
    notes: Sequence[str]
    evaluation: Evaluation
    waiting: int
    faces: int
    methods: Sequence[str]
    prompts: Sequence[PromptPart]
    prompt_count: int
    plots: Mapping[str, Plot]
    glossary: Mapping[str, str]
    gallery: Mapping[str, Any]
    side: int
    instruments: Mapping[str, str]
    own_judge: bool
    judgement: Judgement
    stages: Sequence[Stage]
    comparisons: Sequence[ComparisonPart]
    drift_rule: str

    @property
    def not_used(self) -> int:
        """Photographs without a face that can be used, and faces without a latent."""
        before = [stage for stage in self.stages if stage.name in ("align", "invert")]
        return sum(stage.total - stage.counts.get("ok", 0) for stage in before)


def render_page(page: Page) -> str:
    """Write the page as one HTML document that runs no script and loads no style but its own."""
    templates = open_templates()
    templates.filters |= {
        "clip": _clip,
        "cosine": _cosine,
        "percent": _percent,
        "range": _range,
        "duration": _duration,
        "shade": _shade,
        "counted": _counted,
        "signed": _signed,
        "signed_range": _signed_range,
    }
    tile, script = tile_side(page.side), read_part("page.js")
    sizes = f":root{{--tile:{tile}px;--large:{tile * 3 // 2}px}}\n"
    style = Markup(sizes) + read_part("page.css")  # noqa: S704 numbers only
    return templates.get_template("page.html").render(
        page=page,
        rank=RANK,
        compared=[*DRIFT_TOLERANCES],
        tile=tile,
        style=style,
        script=script,
        style_hash=_csp_hash(style),
        script_hash=_csp_hash(script),
    )


def tile_side(side: int) -> int:
    """Return the CSS pixels at which to show a picture: for a small one a multiple of its own."""
    return side * max(1, round(_TILE / side)) if 0 < side < _TILE else _TILE


def _csp_hash(text: str) -> str:
    """The source expression by which a Content-Security-Policy allows an inline text."""
    return f"sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}"


def _counted(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'s' * (number != 1)}"


def _percent(share: float | None) -> str:
    return _NONE if share is None else f"{share:.0%}"


def _cosine(value: float | None) -> str:
    # Adding 0 makes 0 of -0.
    return _NONE if value is None else f"{round(value, 2) + 0.0:.2f}"


def _range(estimate: Estimate, percent: bool = False) -> str:
    """The interval of an estimate in figures; empty where it has none."""
    if estimate.low is None or estimate.high is None:
        return ""
    if percent:
        return f"{100 * estimate.low:.0f} to {100 * estimate.high:.0f}"
    return f"{estimate.low:.2f} to {estimate.high:.2f}"


def _signed(estimate: Estimate) -> str:
    """A difference with its sign."""
    return _NONE if estimate.mean is None else f"{estimate.mean:+.3f}"


def _signed_range(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return ""
    return f"{estimate.low:+.3f} to {estimate.high:+.3f}"


def _duration(seconds: float) -> str:
    """A duration; a dash where it was not kept."""
    return describe_duration(seconds) if seconds else _NONE


def _shade(estimate: Estimate) -> str:
    """The class of a cosine's colour: n5 to n1 below 0, p0, p1 to p9 above."""
    if estimate.mean is None:
        return "p0"
    step = round(10 * min(max(estimate.mean, -0.5), 0.9))
    return f"n{-step}" if step < 0 else f"p{step}"


def _clip(percent: float) -> float:
    return round(min(max(percent, 0.0), 100.0), 2)
