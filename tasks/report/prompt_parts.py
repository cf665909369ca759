"""What a report shows of each prompt: verdicts, examples in strips, and plots."""

from collections.abc import Mapping
from dataclasses import dataclass

import pandas as pd

from tasks.report.evaluation import Evaluation
from tasks.report.examples import Example, Examples
from tasks.report.page import EditTile, MethodPart, PromptPart, Strip
from tasks.report.pictures import Pictures
from tasks.report.plots import Plot, frontier_plot, loss_plot, ordered_methods, spread_plot
from tasks.report.rows import Rows

_SPREAD = ("directional_edit", "identity_edit")


@dataclass(frozen=True)
class ReportMaterial:
    """What is known of a run's results.

    Attributes:
        rows: Of the run.
        evaluation: Theirs.
        examples: Theirs.
        pictures: Of those that are shown.
        pair_ids: Of those that are shown, by their place.
    """

    rows: Rows
    evaluation: Evaluation
    examples: Examples
    pictures: Pictures
    pair_ids: pd.Series

    @property
    def prompts(self) -> list[str]:
        """The different target prompts, in the order of the manifest."""
        return [*self.rows.settings["target_prompt"].unique()]


def prompt_part(material: ReportMaterial, prompt: str, plots: Mapping[str, Plot]) -> PromptPart:
    """Gather what a page shows of a prompt.

    Args:
        material: Of the run.
        prompt: One of its target prompts.
        plots: Of the prompt by their address.
    """
    own = _settings_of(material, prompt)
    methods = [_method(material, name, prompt) for name in ordered_methods(own["method"])]
    methods.sort(key=_merit, reverse=True)
    return PromptPart(prompt, [*own["neutral_prompt"].unique()], methods, plots)


def prompt_plots(material: ReportMaterial, prompt: str) -> dict[str, Plot]:
    """Draw the plots of a prompt, by name."""
    rows, evaluation = material.rows, material.evaluation
    methods = ordered_methods(_settings_of(material, prompt)["method"])
    strengths = {method: evaluation.strengths(method, prompt) for method in methods}
    pooled = {method: evaluation.pooled(method, prompt) for method in methods}
    places = {m: rows.find(rows.of(target_prompt=prompt, method=m)) for m in methods}
    values = {}
    for name in _SPREAD:
        column = rows.column(name)
        values[name] = {method: column[own] for method, own in places.items()}
    return {
        "frontier": frontier_plot(strengths, evaluation.criteria),
        "spread": spread_plot(values),
        "losses": loss_plot(pooled),
    }


def _settings_of(material: ReportMaterial, prompt: str) -> pd.DataFrame:
    return material.rows.settings.loc[material.rows.of(target_prompt=prompt)]


def _method(material: ReportMaterial, method: str, prompt: str) -> MethodPart:
    evaluation = material.evaluation
    return MethodPart(
        pooled=evaluation.pooled(method, prompt),
        best=evaluation.best_strength(method, prompt),
        strengths=evaluation.strengths(method, prompt),
        strips=[_strip(material, example) for example in material.examples[method, prompt]],
    )


def _merit(part: MethodPart) -> tuple[bool, float]:
    """What is sure comes first, and of that the largest share of successes."""
    share = part.best.scores["success_and_identity"].mean if part.best else None
    is_sure = part.best is not None and part.best.verdict != "unsure"
    return is_sure, -1.0 if share is None else share


def _strip(material: ReportMaterial, example: Example) -> Strip:
    rows, pictures = material.rows, material.pictures
    face = rows.faces[rows.face[example.pair]]
    alphas = rows.settings["alpha"]
    edits = [
        EditTile(
            pair_id=material.pair_ids[index],
            alpha=float(alphas[rows.setting[index]]),
            picture=pictures.edits.get(index),
            chosen=index == example.pair,
        )
        for index in example.strip
    ]
    before = pictures.sources.get(face), pictures.inversions.get(face)
    return Strip(example.kind, example.rank, face, *before, edits)
