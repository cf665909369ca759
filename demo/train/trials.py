"""Trials of the three methods on held-out portraits: figures, and strips of pictures."""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from demo.portraits.sheet import contact_sheet
from demo.train.clock import Deadline
from demo.train.editing import (
    DirectionAsset,
    EditConfig,
    EditFigures,
    EditModels,
    Edits,
    Faces,
    Setting,
    edit_by_mapper,
    edit_by_optimization,
    edit_globally,
    judge_edits,
)
from demo.train.files import replacing
from demo.train.progress import Report
from demo.train.reconstruction import draw_latents
from demo.train.tables import markdown_table, percent
from demo.train.wishes import SURE, Wish, look
from styleclip_ops.warm_start import draw_random_faces

# What an edit may change of what it was not asked for, and how often it should succeed.
MOST_CHANGED, LEAST_SUCCESS = 0.10, 0.80
STRIP_FACES, _ROWS = 8, "edits.jsonl"

Figures = Mapping[Setting, EditFigures]
# prompt, latents [N, num_ws, w_dim] -> pictures at several strengths
Method = Callable[[str, Tensor], Edits]


@dataclass(frozen=True)
class Trial:
    """Hold the figures of one prompt and method by strength."""

    prompt: str
    method: str
    sources: int
    figures: Figures

    def rows(self) -> Iterator[dict[str, object]]:
        """Yield one flat row for each strength."""
        for setting, figures in self.figures.items():
            named = {"prompt": self.prompt, "method": self.method, "sources": self.sources}
            yield named | asdict(setting) | asdict(figures)


def methods(models: EditModels, asset: DirectionAsset, config: EditConfig) -> dict[str, Method]:
    """Return the three methods by their names in manifests."""
    faces = draw_random_faces(models.generator, models.clip)
    return {
        "global": lambda prompt, w_plus: edit_globally(models, asset, prompt, w_plus, config),
        "mapper": lambda prompt, w_plus: edit_by_mapper(models, prompt, w_plus, config),
        "optimize": lambda prompt, w_plus: edit_by_optimization(
            models, faces, prompt, w_plus, config
        ),
    }


def try_methods(
    models: EditModels,
    methods: Mapping[str, Method],
    w_plus: Tensor,
    wishes: Sequence[Wish],
    sources: int,
    folder: Path,
    deadline: Deadline,
    report: Report,
) -> list[Trial]:
    """Try every prompt with every method on inversions that do not show what it asks for.

    Args:
        models: The networks.
        methods: See `methods`.
        w_plus: [N, num_ws, w_dim] inversions of held-out portraits.
        wishes: The prompts.
        sources: How many of the inversions each prompt is tried on, the first that can change.
        folder: Receives a strip of pictures for each prompt and method, and edits.jsonl.
        deadline: No trial is begun after it.
        report: Told the figures.
    """
    pictures = draw_latents(models.generator, w_plus)
    sight = look(models.probe, pictures)
    trials = list[Trial]()
    for wish in wishes:
        rows = wish.possible(sight).nonzero()[:sources, 0]
        if not len(rows):
            continue
        with torch.no_grad():
            persons = models.identity.embed(pictures[rows])
        before = Faces(w_plus[rows], pictures[rows], sight.take(rows), persons)
        for name, method in methods.items():
            if deadline.passed:
                break
            trials.append(_try_method(models, wish, name, method, before, folder))
            chosen = best_setting(trials[-1].figures)
            figures = describe(trials[-1].figures[chosen])
            report(f"judge: {name}, {wish.prompt}: {chosen}, {figures}")
    with replacing(folder / _ROWS) as part:
        lines = [json.dumps(row) for trial in trials for row in trial.rows()]
        part.write_text("\n".join([*lines, ""]), encoding="utf-8")
    return trials


def _try_method(
    models: EditModels, wish: Wish, name: str, method: Method, before: Faces, folder: Path
) -> Trial:
    edits = dict(method(wish.prompt, before.w_plus))
    figures = {
        setting: judge_edits(models, wish, before, edited) for setting, edited in edits.items()
    }
    path = strip_path(folder, name, wish.prompt)
    _save_strip(path, before.pictures, edits, best_setting(figures))
    return Trial(wish.prompt, name, len(before.w_plus), figures)


def strip_path(folder: Path, method: str, prompt: str) -> Path:
    """Return where the strip of a trial is."""
    return folder / f"{method}-{_slug(prompt)}.png"


def read_trials(folder: Path) -> list[Trial]:
    """Read what `try_methods` wrote."""
    parts: dict[tuple[str, str, int], dict[Setting, EditFigures]] = {}
    for line in (folder / _ROWS).read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        setting = Setting(**{field.name: row[field.name] for field in fields(Setting)})
        figures = EditFigures(**{field.name: row[field.name] for field in fields(EditFigures)})
        key = row["prompt"], row["method"], row["sources"]
        parts.setdefault(key, {})[setting] = figures
    return [Trial(*key, figures) for key, figures in parts.items()]


def best_setting(figures: Figures) -> Setting:
    """Choose the strength that succeeds most while it changes little else, or the gentlest."""
    gentle = {s: f for s, f in figures.items() if f.changed < MOST_CHANGED}
    if gentle:
        return max(gentle, key=lambda setting: (gentle[setting].success, -gentle[setting].changed))
    return min(figures, key=lambda setting: figures[setting].changed)


def describe(figures: EditFigures) -> str:
    """Write figures in words."""
    return (
        f"success {percent(figures.success)}, others changed {percent(figures.changed)}, "
        f"identity {figures.identity:.2f}"
    )


def describe_trials(trials: Sequence[Trial]) -> str:
    """Write the figures of all trials as Markdown, by prompt at its best and by strength."""
    parts = [_EDITING_TEXT]
    for method in dict.fromkeys(trial.method for trial in trials):
        own = [trial for trial in trials if trial.method == method]
        means = _mean_figures([trial.figures for trial in own])
        chosen = best_setting(means)
        reached = sum(_reaches(t.figures[best_setting(t.figures)]) for t in own)
        parts += [
            f"### {method}",
            f"Each prompt at its best strength; {reached} of {len(own)} prompts reach the target:",
            markdown_table(_HEADER, [_row(t, best_setting(t.figures)) for t in own]),
            f"One strength for all prompts, means; the best is {chosen}:",
            markdown_table(
                ["strength", *_HEADER[2:]],
                [
                    [str(s) + (" (best)" if s == chosen else ""), *_cells(f)]
                    for s, f in means.items()
                ],
            ),
        ]
    return "\n\n".join(parts)


_HEADER = ["prompt", "best strength", "success", "others changed", "identity"]
_EDITING_TEXT = f"""Held-out portraits are inverted and edited. `success`: the share in which the
probe sees what the prompt asks for, among portraits that did not show it. `others changed`: the
share of the attributes not asked for that the probe sees changed by the edit, among those of which
it was sure before (a probability of {SURE}). Beards are tried on men (there are no bearded women in
the data), a moustache may come with a beard and another hair colour with age (they go together in
the data), and what a hat or a bald head hides is left out.
`identity`: cosine of the identity embeddings before and after. The best strength is the one with
the most success among those that change less than {percent(MOST_CHANGED)} of the others. Target:
success of {percent(LEAST_SUCCESS)} below that."""


def _reaches(figures: EditFigures) -> bool:
    return figures.success >= LEAST_SUCCESS and figures.changed < MOST_CHANGED


def _mean_figures(all_figures: Sequence[Figures]) -> dict[Setting, EditFigures]:
    means = {}
    for setting in all_figures[0]:
        table = torch.tensor([list(asdict(figures[setting]).values()) for figures in all_figures])
        means[setting] = EditFigures(*table.mean(dim=0).tolist())
    return means


def _row(trial: Trial, setting: Setting) -> list[str]:
    return [trial.prompt, str(setting), *_cells(trial.figures[setting])]


def _cells(figures: EditFigures) -> list[str]:
    return [percent(figures.success), percent(figures.changed), f"{figures.identity:.2f}"]


def _save_strip(
    path: Path, source: Tensor, edits: Mapping[Setting, Tensor], chosen: Setting
) -> None:
    """Show sources above what the chosen setting makes of them at every alpha."""
    alike = [p for s, p in edits.items() if s.is_like(chosen)]
    rows = [pictures[:STRIP_FACES] for pictures in (source, *alike)]
    sheet = contact_sheet(torch.cat(rows).cpu(), columns=len(rows[0]))
    with replacing(path) as part:
        sheet.resize((sheet.width * 2, sheet.height * 2), Image.Resampling.NEAREST).save(part)


def _slug(prompt: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", prompt.lower()).strip("-")
