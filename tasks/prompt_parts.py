"""What a report shows of each prompt: verdicts, examples in strips, and plots."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import pandas as pd

from tasks.evaluation import Evaluation
from tasks.examples import Example, choose_examples
from tasks.page import Edit, MethodPart, PromptPart, Strip
from tasks.pictures import Pictures
from tasks.plots import Plot, frontier_plot, loss_plot, ordered_methods, spread_plot

_PLOTTED = ["method", "neutral_prompt", "directional_edit", "identity_edit"]

Examples = Mapping[tuple[str, str], Sequence[Example]]


@dataclass(frozen=True)
class Findings:
    """What is known of a run's results.

    Attributes:
        rows: Of `score_rows`.
        evaluation: Theirs.
        examples: Theirs by method and target prompt.
        pictures: Theirs.
        pair_ids: Of the rows that are shown, by their index.
    """

    rows: pd.DataFrame
    evaluation: Evaluation
    examples: Examples
    pictures: Pictures
    pair_ids: pd.Series

    @property
    def prompts(self) -> list[str]:
        """The different target prompts, in the order of the manifest."""
        return [*self.rows["target_prompt"].unique()]


def find_examples(rows: pd.DataFrame, evaluation: Evaluation) -> Examples:
    """Choose examples at the best strength of every method and prompt."""
    return dict(_examples(rows, evaluation))


def prompt_part(findings: Findings, prompt: str, plots: Mapping[str, Plot]) -> PromptPart:
    """Gather what a page shows of a prompt.

    Args:
        findings: Of the run.
        prompt: One of its target prompts.
        plots: Of the prompt by their address.
    """
    own = _rows_of(findings, prompt)
    methods = [_method(findings, name, prompt) for name in ordered_methods(own["method"])]
    methods.sort(key=_merit, reverse=True)
    return PromptPart(prompt, [*own["neutral_prompt"].unique()], methods, plots)


def prompt_plots(findings: Findings, prompt: str) -> dict[str, Plot]:
    """Draw the plots of a prompt, by name."""
    own, evaluation = _rows_of(findings, prompt), findings.evaluation
    methods = ordered_methods(own["method"])
    strengths = {method: evaluation.strengths(method, prompt) for method in methods}
    pooled = {method: evaluation.pooled(method, prompt) for method in methods}
    return {
        "frontier": frontier_plot(strengths, evaluation.criteria),
        "spread": spread_plot(own),
        "losses": loss_plot(pooled),
    }


def _examples(
    rows: pd.DataFrame, evaluation: Evaluation
) -> Iterator[tuple[tuple[str, str], Sequence[Example]]]:
    for group in evaluation.by_prompt:
        key = (group.method, group.target_prompt)
        best = evaluation.best_strength(*key)
        yield key, choose_examples(rows, best) if best else []


def _rows_of(findings: Findings, prompt: str) -> pd.DataFrame:
    alike = findings.rows["target_prompt"] == prompt
    return findings.rows.loc[alike, _PLOTTED]


def _method(findings: Findings, method: str, prompt: str) -> MethodPart:
    evaluation = findings.evaluation
    return MethodPart(
        pooled=evaluation.pooled(method, prompt),
        best=evaluation.best_strength(method, prompt),
        strengths=evaluation.strengths(method, prompt),
        strips=[_strip(findings, example) for example in findings.examples[method, prompt]],
    )


def _merit(part: MethodPart) -> float:
    share = part.best.scores["success_and_identity"].mean if part.best else None
    return -1.0 if share is None else share


def _strip(findings: Findings, example: Example) -> Strip:
    rows, pictures = findings.rows, findings.pictures
    face = rows.at[example.pair, "image_id"]
    edits = [
        Edit(
            pair_id=findings.pair_ids[index],
            alpha=float(rows.at[index, "alpha"]),
            picture=pictures.edits.get(index),
            chosen=index == example.pair,
        )
        for index in example.strip
    ]
    before = pictures.sources.get(face), pictures.inversions.get(face)
    return Strip(example.kind, example.rank, face, *before, edits)
