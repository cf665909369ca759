"""Tuning: the smallest strength, and the channel budget, that reach a target on a set of images."""

import math
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from PIL import Image

from manifests.edits import Edit, edits_batch
from manifests.instructions import DEFAULT_ALPHA, Instruction
from manifests.schemas import Method
from styleclip_ops.errors import ConfigError, StyleClipError, check_integers
from styleclip_ops.metrics import EditMetrics
from styleclip_ops.pictures import tensor_to_images
from styleclip_ops.strength import (
    StrengthPoint,
    StrengthTarget,
    join_scores,
    limit_of_strengths,
    nearest_strength,
    search_strengths,
    smallest_strength,
    strength_point,
)
from tasks.edits import Batch, Editor, FoundEdit
from tasks.models import open_models
from tasks.runs import RunSettings, store_of
from tasks.selection import is_named

# Strengths to begin with: of mappers and optimization, where 1 is the whole edit; below, of global.
_SHARES = (0.2, 0.4, 0.6, 0.8, 1.0, 1.3)
ALPHAS: dict[Method, tuple[float, ...]] = {"global": (1.0, 2.0, 4.0, 6.0, 8.0, 10.0)}
# Published counts: 10 to 20 for colours, 100 to 200 for shapes.
BUDGETS = (10, 20, 50, 150)


# Share of the images that reach a target one by one; below it, a few carry the mean.
MOST = 0.5
# Faces whose pictures are kept, and their side in pixels.
_MOST_PICTURES = 4
_PICTURE_SIDE = 256


class TuningError(ValueError):
    """There is nothing to tune on."""


@dataclass(frozen=True)
class Search:
    """How strengths are looked for.

    Attributes:
        target: What is to be reached.
        alphas: Grid of strengths; that of the method where empty.
        budgets: Numbers of channels to try, for the method global; `BUDGETS` where empty.
        bisections: Halvings of the interval below the first strength that reaches the target.
        batch_size: Images that are read and scored together; the generator takes lots of its own.

    Raises:
        ConfigError: A value is outside its range.
    """

    target: StrengthTarget
    alphas: tuple[float, ...] = ()
    budgets: tuple[int, ...] = ()
    bisections: int = 4
    batch_size: int = 8

    def __post_init__(self) -> None:
        for alpha in self.alphas:
            if not 0 < alpha < math.inf:
                raise ConfigError(f"alpha: got {alpha}, expected numbers above 0")
        whole = {"batch_size": self.batch_size}
        whole |= {f"num_channels {place}": size for place, size in enumerate(self.budgets, 1)}
        check_integers(1, 1_000_000, **whole)
        check_integers(0, 32, bisections=self.bisections)

    def grid(self, method: Method) -> list[float]:
        """Return the strengths to begin with."""
        return sorted({*(self.alphas or ALPHAS.get(method, _SHARES))})

    def budgets_of(self, method: Method) -> list[int | None]:
        """Return the numbers of channels to try; None alone where the method has none."""
        return [*dict.fromkeys(self.budgets or BUDGETS)] if method == "global" else [None]

    def most_scored(self, method: Method) -> int:
        """Return how many strengths are scored at most."""
        return len(self.budgets_of(method)) * (len(self.grid(method)) + self.bisections)


class ImageSet(NamedTuple):
    """The images that are tuned for.

    Attributes:
        images: All of them.
        sample: Those that are tried.
        others: As many more, or as there are, that only judge what was found.
    """

    images: list[str]
    sample: list[str]
    others: list[str]


@dataclass(frozen=True)
class BudgetResult:
    """What was found with one channel budget.

    Attributes:
        num_channels: None where the method has none.
        points: All strengths that were scored, ascending.
        found: The smallest that reaches the target.
        best: What comes nearest to the target; None where nothing could be scored.
        limit: Why none does.
    """

    num_channels: int | None
    points: tuple[StrengthPoint, ...] = ()
    found: StrengthPoint | None = None
    best: StrengthPoint | None = None
    limit: str = ""


class TunedPicture(NamedTuple):
    """A face of the sample, small, as it is unedited and at the strength that was chosen."""

    image_id: str
    before: Image.Image
    after: Image.Image


@dataclass(frozen=True)
class Tuned:
    """What was found for a prompt.

    Attributes:
        instruction: With the strength and the budget that were chosen.
        budgets: What was found with each.
        chosen: How the sample scores there; None where nothing could be scored.
        reached: Whether that is the target.
        limit: Why not.
        check: How other images score there; None where there are none.
        check_reached: Whether they reach the target, too.
        pictures: Some of the sample.
    """

    instruction: Instruction
    budgets: tuple[BudgetResult, ...]
    chosen: StrengthPoint | None
    reached: bool
    limit: str
    check: StrengthPoint | None = None
    check_reached: bool = False
    pictures: tuple[TunedPicture, ...] = ()

    @property
    def facts(self) -> dict[str, Any]:
        """Return all of it as plain values."""
        asked, words = self.instruction, ("target_prompt", "neutral_prompt", "method", "options")
        return {name: getattr(asked, name) for name in (*words, "alpha", "num_channels")} | {
            "reached": self.reached,
            "limit": self.limit,
            "scores": _plain(self.chosen),
            "check": _plain(self.check),
            "check_reached": self.check_reached,
            "budgets": [
                {
                    "num_channels": budget.num_channels,
                    "alpha": budget.found.alpha if budget.found else None,
                    "limit": budget.limit,
                    "points": [_plain(point) for point in budget.points],
                }
                for budget in self.budgets
            ],
        }


def prompts_to_tune(asked: Sequence[Instruction]) -> list[Instruction]:
    """Return what is asked for whatever its strengths and channels, each once."""
    plain = (
        replace(one, alpha=DEFAULT_ALPHA[one.method], beta=None, num_channels=None) for one in asked
    )
    return [*dict.fromkeys(plain)]


def choose_images(
    settings: RunSettings, patterns: Collection[str], sample: int, seed: int
) -> ImageSet:
    """Choose the images to try, evenly, among those that have a latent.

    Args:
        settings: Which latents.
        patterns: See `tasks.selection.is_named`.
        sample: Most images to try.
        seed: Which.

    Raises:
        TuningError: There is none, or none is wanted.
    """
    store = store_of(settings)
    images = [name for name in store.image_ids() if is_named(name, patterns)]
    if not images or sample < 1:
        raise TuningError(
            f"images: got {len(images)} with a latent in {store.folder.url} that are named "
            f"{', '.join(patterns) or 'anything'}, and a sample of {sample}, expected at least one "
            "of each; align and invert photographs first, or give other names"
        )
    order = np.random.default_rng(seed).permutation(len(images))
    drawn = [images[place] for place in order[: 2 * sample]]
    return ImageSet(images, drawn[:sample], drawn[sample:])


def tune_prompt(
    settings: RunSettings,
    device: str,
    asked: Instruction,
    images: ImageSet,
    search: Search,
    on_progress: Callable[[int], None] | None = None,
) -> Tuned:
    """Find the smallest strength, and the channel budget, that reach a target for a prompt.

    Every budget has its smallest strength. Of those the one is chosen that keeps the identity best,
    and the smaller budget where two do so to a hundredth.

    Args:
        settings: Networks and assets.
        device: See `tasks.models.open_models`.
        asked: The prompt and the method.
        images: What to try it on.
        search: What to reach, and how to look for it.
        on_progress: Told the strengths that are scored.

    Raises:
        TuningError: No image of the sample has a sound latent.
    """
    trial = _Trial(settings, device, search, on_progress)
    budgets = tuple(
        trial.search(replace(asked, num_channels=count), images.sample)
        for count in search.budgets_of(asked.method)
    )
    chosen = _choose(budgets, search.target)
    if chosen is None:
        return Tuned(
            asked, budgets, None, False, "; ".join(dict.fromkeys(b.limit for b in budgets))
        )
    budget, point = chosen
    instruction = replace(asked, alpha=point.alpha, num_channels=budget.num_channels)
    tuned = Tuned(
        instruction,
        budgets,
        point,
        budget.found is not None,
        budget.limit,
        pictures=trial.draw(instruction, images.sample[:_MOST_PICTURES]),
    )
    if not images.others:
        return tuned
    try:
        check = trial.score(tuned.instruction, images.others)(point.alpha)
    except TuningError:
        # What was found stands, unchecked: none of the others has a sound latent.
        return tuned
    return replace(tuned, check=check, check_reached=check.reaches(search.target))


class _Trial:
    """Scores strengths on images."""

    def __init__(
        self,
        settings: RunSettings,
        device: str,
        search: Search,
        on_progress: Callable[[int], None] | None,
    ) -> None:
        self._editor = Editor(settings, open_models(settings.models, device))
        self._search, self._on_progress, self._scored = search, on_progress, 0

    def search(self, asked: Instruction, images: Sequence[str]) -> BudgetResult:
        """Look for the smallest strength with one channel budget."""
        search = self._search
        try:
            score, grid = self.score(asked, images), search.grid(asked.method)
            points = search_strengths(score, grid, search.target, search.bisections)
        except StyleClipError as error:
            return BudgetResult(asked.num_channels, limit=str(error))
        found = smallest_strength(points, search.target)
        best, limit = found or nearest_strength(points, search.target), ""
        if not found:
            limit = limit_of_strengths(points, search.target)
        return BudgetResult(asked.num_channels, tuple(points), found, best, limit)

    def score(self, asked: Instruction, images: Sequence[str]) -> Callable[[float], StrengthPoint]:
        """Find the edits of some images, and return what scores them at a strength."""
        # Once for all strengths: an optimization takes its hundreds of steps here.
        edits = [*self._edits(asked, images)]
        if not edits:
            (row,) = edits_batch([Edit(images[0], asked)]).to_pylist()
            if refusal := self._editor.refusal(row):
                raise ConfigError(refusal)
            raise TuningError(
                f"images: got no sound latent of {', '.join(images[:5])} and the others, expected "
                "some; `styleclip verify` says what is wrong with them"
            )
        return lambda alpha: self._point(alpha, edits)

    def draw(self, asked: Instruction, images: Sequence[str]) -> tuple[TunedPicture, ...]:
        """Draw images before and after the edit that is asked for."""
        drawn = list[TunedPicture]()
        for batch, edit in self._edits(asked, images):
            before, after = (
                tensor_to_images(edit.at(torch.full((len(batch.rows),), alpha)))
                for alpha in (0.0, asked.alpha)
            )
            for row, *pair in zip(batch.rows, before, after, strict=True):
                for picture in pair:
                    picture.thumbnail((_PICTURE_SIDE, _PICTURE_SIDE), Image.Resampling.LANCZOS)
                drawn.append(TunedPicture(row["image_id"], *pair))
        return tuple(drawn)

    def _edits(
        self, asked: Instruction, images: Sequence[str]
    ) -> Iterator[tuple[Batch, FoundEdit]]:
        rows = edits_batch([Edit(name, asked) for name in images]).to_pylist()
        for batch in self._editor.batches(rows, self._search.batch_size):
            yield batch, self._editor.find(batch)

    def _point(self, alpha: float, edits: Sequence[tuple[Batch, FoundEdit]]) -> StrengthPoint:
        scores, before = list[EditMetrics](), list[torch.Tensor]()
        for batch, edit in edits:
            images = edit.at(torch.full((len(batch.rows),), alpha, device=edit.latents.device))
            metrics, cosines = self._editor.score(batch, images)
            scores.append(metrics)
            before.append(cosines)
        self._scored += 1
        if self._on_progress is not None:
            self._on_progress(self._scored)
        return strength_point(alpha, join_scores(scores), torch.cat(before), self._search.target)


def _choose(
    budgets: Sequence[BudgetResult], target: StrengthTarget
) -> tuple[BudgetResult, StrengthPoint] | None:
    """The budget to take with its strength; None where nothing could be scored."""
    found = [(budget, budget.found) for budget in budgets if budget.found is not None]
    if found:
        # By identity to a hundredth, then the smaller budget.
        return max(
            found, key=lambda pair: (round(pair[1].identity.mean, 2), -(pair[0].num_channels or 0))
        )
    best = [(budget, budget.best) for budget in budgets if budget.best is not None]
    if not best:
        return None
    nearest = nearest_strength([point for _, point in best], target)
    return next(pair for pair in best if pair[1] is nearest)


def _plain(point: StrengthPoint | None) -> dict[str, Any] | None:
    if point is None:
        return None
    means = {name: getattr(point, name)._asdict() for name in _MEANS}
    # One image has no interval, and JSON no NaN.
    plain = {
        name: {end: None if math.isnan(value) else value for end, value in mean.items()}
        for name, mean in means.items()
    }
    return point._asdict() | plain


_MEANS = ("directional", "identity", "gain")
