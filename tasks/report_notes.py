"""What a reader must know before trusting a report's numbers."""

import pandas as pd

_FEW_FACES = 20
_FINGERPRINTS = ("generator", "encoder", "clip", "judge", "identity")


def reader_notes(rows: pd.DataFrame, waiting: int, pictures_missing: int) -> list[str]:
    """Return a sentence for each thing that limits what the numbers say.

    Args:
        rows: Of `score_rows`.
        waiting: Planned rows without a committed result.
        pictures_missing: Edits that are ok, and have no picture.
    """
    notes = [_judge_note(rows)]
    faces = rows["image_id"].nunique()
    if waiting:
        notes.append(f"{waiting:,} planned pairs have no result yet: the run is not finished.")
    for role in _FINGERPRINTS:
        count = rows[f"{role}_fingerprint"].nunique()
        if count > 1:
            notes.append(f"The rows come from {count} different {role} networks.")
    twice = int(rows["pair_id"].duplicated().sum())
    if twice:
        notes.append(f"Pair ids come again in other rows: {twice:,} times.")
    if len(rows) and rows["success"].isna().all():
        notes.append("No pair could be judged a success or not: scores are missing.")
    if 0 < faces < _FEW_FACES:
        notes.append(f"Few faces ({faces}): the intervals are rough.")
    if pictures_missing:
        notes.append(f"{pictures_missing:,} edited images are absent, damaged or altered.")
    return notes


def _judge_note(rows: pd.DataFrame) -> str:
    own = rows["judge_fingerprint"].isna() | (rows["judge_fingerprint"] == rows["clip_fingerprint"])
    if own.all():
        return (
            "The CLIP that judges is the one that steered the edits, which flatters its scores; "
            "a second CLIP under the role judge would be a fairer one."
        )
    if own.any():
        return f"The CLIP that steered a row judges it in {int(own.sum()):,} of {len(own):,} rows."
    return "Another CLIP judges than the one that steered the edits."
