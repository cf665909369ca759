"""A second look at some edits of a run: networks see the saved pictures again.

What no result row can say is found here, on a few faces of every method and prompt at its best
strength: where else an edit leads than where it was asked to, what another CLIP says of it, how far
pictures differ to people (LPIPS), and how far all of them together are from photographs (Fréchet).
"""

import io
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import islice

import numpy as np
import pandas as pd
import torch
from PIL import Image
from torch import Tensor

from styleclip_ops.errors import StyleClipError
from styleclip_ops.metrics import (
    FrechetDistance,
    cosine_similarity,
    directional_similarity,
    frechet_distance,
)
from styleclip_ops.pictures import images_to_tensor
from tasks.bundles import Role
from tasks.models import Models, read_models
from tasks.outputs import read_images
from tasks.places import RunPlaces
from tasks.provenance import PICTURE_ERRORS
from tasks.report.evaluation import Estimate, Evaluation, Group, Places, estimate_mean
from tasks.report.pictures import BeforeSources, committed_sources, edited_sources
from tasks.report.rows import Rows
from tasks.report.scoring import DISTANCE, Criteria
from tasks.report.thumbnails import Source
from tasks.store.folders import sha256

MOST_FACES, MOST_PROMPTS = 64, 60


@dataclass(frozen=True)
class Look:
    """What the networks say of the pairs of one method and prompt.

    Attributes:
        method: How they were edited.
        target_prompt: What they were edited towards.
        alpha: Their strength.
        pairs: How many were seen.
        towards: Directional similarity of their change with the direction of every prompt.
        directional: The same with the pair's own direction.
        rose: Share whose CLIP cosine to the target prompt is higher than before the edit.
        lpips: Of inversion and edited image; none where the weights are absent.
        least: Similarity from which on a direction is followed.
    """

    method: str
    target_prompt: str
    alpha: float
    pairs: int
    towards: Mapping[str, Estimate]
    directional: Estimate
    rose: Estimate
    lpips: Estimate
    least: float = Criteria.directional

    @property
    def elsewhere(self) -> str:
        """The prompt that the edits lead to more than to their own; empty where to none."""
        own = self.towards[self.target_prompt].mean
        prompt, most = max(self.towards.items(), key=lambda found: found[1].mean or 0.0)
        if own is None or most.low is None or (most.mean or 0.0) < self.least:
            return ""
        return prompt if most.low > own else ""

    @property
    def elsewhere_note(self) -> str:
        """The same in words; empty where the edits lead to their own prompt."""
        if not self.elsewhere:
            return ""
        own, most = (self.towards[name].mean for name in (self.target_prompt, self.elsewhere))
        return (
            f"{self.target_prompt!r} by {self.method} leads more to {self.elsewhere!r} "
            f"({most:.2f}) than to itself ({own:.2f})"
        )


@dataclass(frozen=True)
class Judgement:
    """What the networks say of a run.

    Attributes:
        judge: The CLIP and its preprocessing, in words; empty where there is none.
        another: Whether it is another one than all rows were steered by.
        scored: Whether it is the one that the scores of the rows are from.
        prompts: The different target prompts, as they come.
        looks: Of every method and prompt.
        frechet: Distance of edited pictures to aligned photographs by method, in the judge's
            features.
        notes: What is absent, and what would bring it.
    """

    judge: str = ""
    another: bool = False
    scored: bool = False
    prompts: Sequence[str] = ()
    looks: Sequence[Look] = ()
    frechet: Mapping[str, FrechetDistance] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def find(self, method: str, prompt: str) -> Look | None:
        """Return the look at a method and prompt."""
        for look in self.looks:
            if (look.method, look.target_prompt) == (method, prompt):
                return look
        return None


def judge_pairs(
    rows: Rows,
    evaluation: Evaluation,
    places: RunPlaces,
    models: str,
    device: str = "auto",
    advance: Callable[[int, int], None] | None = None,
) -> Judgement:
    """Look at the edits of a run again.

    Args:
        rows: Of the run.
        evaluation: Theirs.
        places: Where the run is.
        models: URL of the bundle whose networks look.
        device: See `tasks.models.open_models`.
        advance: Called with the number of edits looked at and of all.
    """
    if not rows.ok.any():
        return Judgement()
    try:
        judge = _Judge(read_models(models, device))
    except (StyleClipError, OSError) as error:
        absent = (
            "No network looked at the edited pictures again, so entanglement, LPIPS and Fréchet "
            f"distances are absent: {error}"
        )
        return Judgement(notes=(absent,))
    prompts = [*islice(_readable(rows, evaluation, judge), MOST_PROMPTS)]
    looks, seen = list[Look](), dict[str, list[_Seen]]()
    groups = [one for one in _best_strengths(evaluation) if one.target_prompt in prompts]
    tables = [rows.table(_draw(rows, group)) for group in groups]
    before = committed_sources(places, {name for table in tables for name in table["image_id"]})
    done, total = 0, sum(map(len, tables))

    def tell() -> None:
        nonlocal done
        done += 1
        if advance:
            advance(done, total)

    for group, table in zip(groups, tables, strict=True):
        pictures = _see(table, places, before, judge, tell)
        if pictures:
            seen.setdefault(group.method, []).append(pictures)
            looks.append(_look(group, rows, pictures, prompts, judge, evaluation.criteria))
    if not looks:
        return Judgement(notes=("No edited picture could be looked at again.",))
    return _judgement(rows, judge, prompts, looks, seen)


class _Judge:
    """The networks that look at pictures.

    Args:
        networks: Of a bundle.
    """

    def __init__(self, networks: Models) -> None:
        role: Role = "judge" if networks.has("judge") else "clip"
        self.clip, self.device = networks.judge, networks.device
        self.fingerprint = networks.fingerprint("judge")
        self.lpips = None
        if networks.has("alexnet") and networks.has("lpips"):
            self.lpips = networks.lpips
        place = networks.bundle.locate(role).rstrip("/").rpartition("/")[2]
        # The parts of CLIP's preprocessing that its numbers depend on.
        size, way = self.clip.image_size, self.clip.preprocessing
        resize = "antialiased bicubic" if way == "clip" else "by area"
        self.name = f"CLIP {place} ({self.fingerprint}), saved pictures at {size} px, {resize}"
        self._texts, self._faces = dict[str, Tensor](), dict[str, Tensor]()

    @torch.no_grad()
    def embed(self, picture: Image.Image) -> Tensor:
        """Embed a picture of any size: [E]."""
        return self.clip.embed_images(images_to_tensor([picture]).to(self.device))[0]

    def embed_face(self, uri: str, picture: Image.Image) -> Tensor:
        """Embed a picture that comes with many edits, once: [E]."""
        if uri not in self._faces:
            self._faces[uri] = self.embed(picture)
        return self._faces[uri]

    @torch.no_grad()
    def embed_text(self, text: str) -> Tensor:
        """Embed a prompt: [1, E]."""
        if text not in self._texts:
            self._texts[text] = self.clip.embed_texts([text])
        return self._texts[text]

    @torch.no_grad()
    def distance(self, one: Image.Image, other: Image.Image) -> float:
        """Return LPIPS; NaN without its weights."""
        if self.lpips is None:
            return float("nan")
        pair = [images_to_tensor([picture]).to(self.device) for picture in (one, other)]
        return float(self.lpips(*pair))


@dataclass(frozen=True)
class _Seen:
    """Pictures of N faces.

    Attributes:
        rows: Theirs.
        sources: [E] embeddings of the photographs, by face; of those that are there.
        inversion, edited: [N, E] embeddings.
        lpips: [N] of inversion and edited image.
    """

    rows: pd.DataFrame
    sources: Mapping[str, Tensor]
    inversion: Tensor
    edited: Tensor
    lpips: Tensor


def _readable(rows: Rows, evaluation: Evaluation, judge: _Judge) -> Iterator[str]:
    """The prompts of edited pairs that the judge can read: another CLIP may take fewer tokens."""
    for prompt in dict.fromkeys(group.target_prompt for group in evaluation.by_prompt):
        neutral = rows.settings.loc[rows.of(target_prompt=prompt), "neutral_prompt"].unique()
        with suppress(StyleClipError):
            for text in (prompt, *neutral):
                judge.embed_text(text)
            yield prompt


def _best_strengths(evaluation: Evaluation) -> Iterator[Group]:
    for group in evaluation.by_prompt:
        strengths = evaluation.strengths(group.method, group.target_prompt)
        best = evaluation.best_strength(group.method, group.target_prompt) or strengths[-1]
        # At 0 or below nothing is asked for that a network could look for.
        if best.edited and (best.alpha or 0) > 0:
            yield best


def _draw(rows: Rows, group: Group) -> Places:
    """One pair a face, of faces drawn evenly."""
    same = rows.of(method=group.method, target_prompt=group.target_prompt, alpha=group.alpha)
    own = rows.find(same)
    own = own[rows.ok[own]]
    _, firsts = np.unique(rows.face[own], return_index=True)
    drawn = np.random.default_rng(0).permutation(firsts)[:MOST_FACES]
    return np.sort(own[drawn]).astype(np.int32)


def _see(
    table: pd.DataFrame,
    places: RunPlaces,
    before: BeforeSources,
    judge: _Judge,
    tell: Callable[[], None],
) -> _Seen | None:
    """Embed the pictures of rows, without those whose inversion or edit is not there.

    A latent from another tool has no photograph.
    """
    edits = dict(edited_sources(places, table))
    faces = {name: before[name] for name in {*table["image_id"]} & before.keys()}
    wanted = [*edits.values(), *(source for pair in faces.values() for source in pair)]
    pictures = dict(_read(wanted))
    found, parts, distances = list[int](), list[Tensor](), list[float]()
    sources = dict[str, Tensor]()
    for place, name in table["image_id"].items():
        tell()
        if place not in edits or name not in faces:
            continue
        uris = [source.uri for source in (*faces[name], edits[place])]
        crop, inversion, edited = map(pictures.get, uris)
        if inversion and edited:
            found.append(place)
            parts.append(torch.stack([judge.embed_face(uris[1], inversion), judge.embed(edited)]))
            distances.append(judge.distance(inversion, edited))
            if crop:
                sources[name] = judge.embed_face(uris[0], crop)
    if not found:
        return None
    before_edit, after_edit = torch.stack(parts, dim=1)
    return _Seen(table.loc[found], sources, before_edit, after_edit, torch.tensor(distances))


def _read(sources: Iterable[Source]) -> Iterator[tuple[str, Image.Image]]:
    digests = {source.uri: source.sha256 for source in sources}
    for uri, content in read_images(digests):
        if content and digests[uri] in (None, sha256(content)):
            # What is no picture is counted with those that are not there.
            with suppress(*PICTURE_ERRORS):
                picture = Image.open(io.BytesIO(content)).convert("RGB")
                if picture.width == picture.height:
                    yield uri, picture


def _look(
    group: Group,
    rows: Rows,
    seen: _Seen,
    prompts: Sequence[str],
    judge: _Judge,
    criteria: Criteria,
) -> Look:
    def estimate(
        values: Tensor, share: bool = False, limits: tuple[float, float] | None = None
    ) -> Estimate:
        numbers = values.double().cpu().numpy()
        return estimate_mean(numbers, faces, criteria, share=share, limits=limits)

    faces = np.arange(len(seen.rows), dtype=np.int32)
    neutral, target = (
        torch.cat([judge.embed_text(text) for text in seen.rows[name]])
        for name in ("neutral_prompt", "target_prompt")
    )
    change = seen.inversion, seen.edited
    directions = rows.settings.drop_duplicates("target_prompt").set_index("target_prompt")
    towards = {
        prompt: estimate(directional_similarity(*change, judge.embed_text(start), end))
        for prompt in prompts
        for start, end in [(directions.at[prompt, "neutral_prompt"], judge.embed_text(prompt))]
    }
    after, before = (cosine_similarity(images, target) for images in (seen.edited, seen.inversion))
    return Look(
        method=group.method,
        target_prompt=group.target_prompt,
        alpha=float(group.alpha or 0),
        pairs=len(faces),
        towards=towards,
        directional=estimate(directional_similarity(*change, neutral, target)),
        rose=estimate((after > before).float(), share=True),
        lpips=estimate(seen.lpips, limits=DISTANCE),
        least=criteria.directional,
    )


def _judgement(
    rows: Rows,
    judge: _Judge,
    prompts: Sequence[str],
    looks: Sequence[Look],
    seen: Mapping[str, Sequence[_Seen]],
) -> Judgement:
    another = judge.fingerprint not in {*rows.settings["clip_fingerprint"]}
    notes = []
    different = rows.settings["target_prompt"].nunique()
    if len(prompts) < different:
        notes.append(
            f"{len(prompts)} of {different:,} prompts were looked at: the first {MOST_PROMPTS} "
            "that the judge can read."
        )
    if judge.lpips is None:
        notes.append("LPIPS is absent: the bundle lacks its weights (roles alexnet and lpips).")
    if not another:
        notes.append(
            "A Fréchet distance is absent: it needs the features of a network that did not steer "
            "the edits (role judge)."
        )
    frechet, unseen = {}, set[str]()
    for method, parts in seen.items() if another else ():
        # Every photograph once, however many of its edits were seen.
        sources = {name: embedding for part in parts for name, embedding in part.sources.items()}
        unseen.update(*(part.rows["image_id"] for part in parts))
        unseen -= sources.keys()
        edited = torch.cat([part.edited for part in parts])
        if len(sources) > 1:
            frechet[method] = frechet_distance(torch.stack([*sources.values()]), edited)
    if unseen:
        notes.append(
            f"{len(unseen)} faces that were looked at have no aligned photograph, as imported "
            "latents have none: the Fréchet distance is to the photographs of the others."
        )
    return Judgement(
        judge=judge.name,
        another=another,
        scored={*rows.settings["judge_fingerprint"].dropna()} == {judge.fingerprint},
        prompts=prompts,
        looks=looks,
        frechet=frechet,
        notes=tuple(notes),
    )
