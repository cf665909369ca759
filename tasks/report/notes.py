"""What a reader must know before trusting a report's numbers."""

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from tasks.report.evaluation import Evaluation
from tasks.report.rows import FINGERPRINTS, Rows

_FEW_FACES = 20


def reader_notes(rows: Rows, evaluation: Evaluation, waiting: int, copies: int) -> list[str]:
    """Return a sentence for each thing that limits what the numbers say.

    Args:
        rows: Of the run.
        evaluation: Theirs.
        waiting: Planned rows without a committed result.
        copies: Faces of photographs that equal others.
    """
    notes, faces = list[str](), len(rows.edited_faces())
    if waiting:
        notes.append(
            f"The run is not finished: {waiting:,} planned "
            f"{'pair has' if waiting == 1 else 'pairs have'} no result yet."
        )
    notes.append(_judge_note(rows))
    for role in FINGERPRINTS:
        count = rows.settings[f"{role}_fingerprint"].nunique()
        if count > 1:
            notes.append(f"The rows come from {count} different {role} networks.")
    if rows.repeated:
        notes.append(f"Pair ids come again in other rows: {rows.repeated:,} times.")
    if len(rows) and not any(group.scores["success"].count for group in evaluation.by_prompt):
        notes.append("No pair could be judged a success or not: scores are missing.")
    if unchanged := int(rows.unchanged().sum()):
        asked = int((~np.isnan(rows.column("success"))).sum())
        notes.append(
            f"{unchanged:,} of {asked:,} edits changed nothing at all, and are "
            "no success: take a larger alpha, or for optimize more steps or a smaller l2_lambda."
        )
    if 0 < faces < _FEW_FACES:
        notes.append(f"Few faces ({faces}): the intervals are rough.")
    if copies:
        notes.append(
            f"{copies:,} of the faces are copies of others, byte by byte: the intervals take them "
            "for other people, and are too narrow."
        )
    lost, known = _lost_in_inversion(rows, evaluation.criteria.identity)
    if lost:
        notes.append(
            f"{lost:,} of {known:,} faces are other people in the inversion already, before any "
            f"edit (identity_inversion below {evaluation.criteria.identity:g}): what an edit "
            "keeps is the inversion."
        )
    return notes


def missing_notes(edits: int, faces: int) -> Iterator[str]:
    """Say which pictures are not there any more, and how they are made again.

    Args:
        edits: That are ok, and have no picture.
        faces: Of which the crop or the inversion is gone.
    """
    if edits:
        several = "edited image is" if edits == 1 else "edited images are"
        yield (
            f"{edits:,} {several} absent, damaged or altered: `styleclip edit` with "
            "--redo-damaged makes them again."
        )
    if faces:
        several = "face is" if faces == 1 else "faces are"
        yield (
            f"The crop or inversion of {faces:,} {several} absent, damaged or altered: `styleclip "
            "align` and `invert` with --redo-damaged make them again."
        )


def instruments(rows: Rows) -> dict[str, str]:
    """Say what measured the numbers of the rows."""

    def named(role: str) -> str:
        found = [*rows.settings[f"{role}_fingerprint"].dropna().unique()]
        return ", ".join(found) or "of an unknown fingerprint"

    return {
        "clip, directional, image, off-target, success": (
            f"CLIP {named('judge')} (edits were steered by CLIP {named('clip')}); pictures clamped "
            "to the range of a file, not rounded to its levels, antialiased bicubic resize to the "
            "network's input, CLIP's mean and deviation; texts as they are written, without "
            "templates; embeddings of length 1"
        ),
        "identity": (
            f"ArcFace {named('identity')}; pictures clamped likewise; aligned faces at 256 px, cut "
            "to rows 35 to 223 and columns 32 to 220, pooled to 112 px; cosine of embeddings of "
            "length 1"
        ),
        "N": (
            "pairs of a group that are ok and have the number; it is said where it is not that of "
            "the edited pairs. Pairs that failed are counted, and have no scores"
        ),
    }


def is_own_judge(rows: Rows) -> NDArray[np.bool_]:
    """[N] whether the CLIP that judges a row is the one that steered it."""
    judges, steering = rows.settings["judge_fingerprint"], rows.settings["clip_fingerprint"]
    own: NDArray[np.bool_] = (judges.isna() | (judges == steering)).to_numpy(bool)
    return own[rows.setting]


def _judge_note(rows: Rows) -> str:
    own = is_own_judge(rows)
    if own.all():
        return (
            "The CLIP that judges is the one that steered the edits, which flatters its scores; "
            "a second CLIP under the role judge would be a fairer one."
        )
    if own.any():
        return (
            f"The CLIP that steered a row judges it in {int(np.sum(own)):,} of {len(own):,} rows."
        )
    return "Scored by a second CLIP, which did not steer the edits; look at the pictures as well."


def _lost_in_inversion(rows: Rows, least: float) -> tuple[int, int]:
    """Faces whose inversions are other people, and faces of which it is known."""
    values = rows.column("identity_inversion")
    known = ~np.isnan(values)
    counts = np.bincount(rows.face[known], minlength=len(rows.faces))
    sums = np.bincount(rows.face[known], values[known], len(rows.faces))
    known = counts > 0
    return int((sums[known] / counts[known] < least).sum()), int(known.sum())
