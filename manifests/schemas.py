"""The columns of every table: faces, latents, edits (a manifest), results, a mapper's log."""

from typing import Literal, get_args

import pyarrow as pa

Method = Literal["global", "mapper", "optimize"]
METHODS: tuple[Method, ...] = get_args(Method)

FaceStatus = Literal["ok", "unreadable", "no_face", "several_faces", "too_small"]
FACE_STATUSES: tuple[FaceStatus, ...] = get_args(FaceStatus)

ResultStatus = Literal["ok", "no_latent", "failed", "no_channel"]
RESULT_STATUSES: tuple[ResultStatus, ...] = get_args(ResultStatus)

# What can be tried again, and the word that stands for all of it.
FACE_FAILURES = tuple(status for status in FACE_STATUSES if status != "ok")
LATENT_FAILURES = ("unreadable", "failed")
RESULT_FAILURES = tuple(status for status in RESULT_STATUSES if status != "ok")
ALL_FAILURES = "all"


def _column(
    name: str, kind: pa.DataType, description: str, unit: str = "", nullable: bool = False
) -> pa.Field:
    facts = {"description": description} | ({"unit": unit} if unit else {})
    return pa.field(name, kind, nullable=nullable, metadata=facts)


def _metric(name: str, description: str, unit: str = "cosine, -1 to 1") -> pa.Field:
    return _column(name, pa.float64(), description, unit, nullable=True)


def _digest(name: str, description: str, nullable: bool = True) -> pa.Field:
    return _column(name, pa.string(), description, "hexadecimal digits", nullable)


FACES = pa.schema(
    [
        _column("image_id", pa.string(), "Name of the aligned face in every other table."),
        _column("source_uri", pa.string(), "Where the photograph is."),
        _digest("source_sha256", "Of the photograph's bytes; null if they could not be read."),
        _column(
            "face_index",
            pa.int32(),
            "Place of the face in the photograph, 0 the largest; null without a face.",
            nullable=True,
        ),
        _column(
            "num_faces",
            pa.int32(),
            "Faces found in the photograph; null if it was not searched.",
            nullable=True,
        ),
        _column("status", pa.string(), f"One of {', '.join(FACE_STATUSES)}."),
        _column("error", pa.string(), "What went wrong; null if ok.", nullable=True),
        _column(
            "quad",
            pa.list_(pa.float64(), 8),
            "x, y of the crop's corners: top left, bottom left, bottom right, top right.",
            "pixels of the upright photograph",
            nullable=True,
        ),
        _column("score", pa.float64(), "Confidence of the face detector.", nullable=True),
        _column("width", pa.int32(), "Of the upright photograph.", "pixels", nullable=True),
        _column("height", pa.int32(), "Of the upright photograph.", "pixels", nullable=True),
        _column("crop_uri", pa.string(), "Where the aligned crop is.", nullable=True),
        _digest("crop_sha256", "Of the crop's file."),
    ]
)

# What the ledger of a W+ store says of each latent.
LATENTS = pa.schema(
    [
        _column("image_id", pa.string(), "Name of the aligned face."),
        _column("row", pa.int64(), "Row of the Zarr arrays.", nullable=True),
        _digest("source_sha256", "Of the aligned crop."),
        _column("status", pa.string(), f"One of {', '.join(('ok', *LATENT_FAILURES))}."),
        _column("error", pa.string(), "What went wrong; null if ok.", nullable=True),
        _column("inversion_uri", pa.string(), "Where the inversion's picture is.", nullable=True),
        _metric("l1", "Mean absolute difference of crop and inversion.", "0 to 2"),
        _metric("image_inversion", "CLIP: crop and inversion."),
        _metric("identity_inversion", "Identity: crop and inversion."),
        _digest("stored_sha256", "Of the row's values."),
    ]
)

EDITS = pa.schema(
    [
        _column("pair_id", pa.string(), "Name of the row: 16 hex digits of its content, or yours."),
        _column("image_id", pa.string(), "Face to edit, as in the table of faces."),
        _column("neutral_prompt", pa.string(), "What the photograph shows."),
        _column("target_prompt", pa.string(), "What the edited image shall show."),
        _column("method", pa.string(), f"One of {', '.join(METHODS)}."),
        _column(
            "alpha",
            pa.float64(),
            "Manipulation strength; 0 changes nothing.",
            "standard deviations (global), share of the full edit (mapper, optimize)",
        ),
        _column(
            "beta",
            pa.float64(),
            "Disentanglement threshold on |relevance|, method global.",
            "cosine, 0 to 1",
            nullable=True,
        ),
        _column(
            "num_channels",
            pa.int32(),
            "Keep this many of the most relevant style channels instead, method global.",
            "style channels",
            nullable=True,
        ),
        _column(
            "mapper_uri",
            pa.string(),
            "Folder of a trained mapper; null: the one of this prompt, trained where missing.",
            nullable=True,
        ),
        _column("options", pa.string(), "Further options of the method, JSON.", nullable=True),
    ]
)

_METRICS = [
    _metric("clip_cosine", "Edited image and target prompt."),
    _metric("clip_score", "100 * max(clip_cosine, 0).", "0 to 100"),
    _metric("directional_edit", "Change from inversion to edited image, and of the text."),
    _metric("directional_total", "Change from source to edited image, and of the text."),
    _metric("image_inversion", "CLIP: source and inversion."),
    _metric("image_edit", "CLIP: inversion and edited image."),
    _metric("image_total", "CLIP: source and edited image."),
    _metric("identity_inversion", "Identity: source and inversion."),
    _metric("identity_edit", "Identity: inversion and edited image."),
    _metric("identity_total", "Identity: source and edited image."),
]
METRICS: tuple[str, ...] = tuple(field.name for field in _METRICS)

RESULTS = pa.schema(
    [
        *EDITS,
        _column("status", pa.string(), f"One of {', '.join(RESULT_STATUSES)}."),
        _column("error", pa.string(), "What went wrong; null if ok.", nullable=True),
        _column("output_uri", pa.string(), "Where the edited image is.", nullable=True),
        _digest("output_sha256", "Of the edited image's file."),
        _metric("clip_cosine_inversion", "Inversion and target prompt: before the edit."),
        *_METRICS,
        _column("seconds", pa.float64(), "Time for the edit and its scores.", "s", nullable=True),
        _digest("latent_sha256", "Of the stored latent that was edited; null if none was."),
        _digest("edit_key", "Of all that the edited image depends on; null if none was made."),
        _digest("generator_fingerprint", "Of the generator's weights.", nullable=False),
        _digest("encoder_fingerprint", "Of the encoder that inverted the photograph."),
        _digest("clip_fingerprint", "Of the CLIP that steered the edit."),
        _digest("judge_fingerprint", "Of the CLIP that judged it."),
        _digest("identity_fingerprint", "Of the identity network."),
        _digest("asset_fingerprint", "Of the directions or the mapper; null if neither was used."),
        _column("code_version", pa.string(), "Of the code that made the row."),
        _column("shard", pa.int32(), "Shard of the run that the row belongs to."),
    ]
)

MAPPER_LOG = pa.schema(
    [
        _column("step", pa.int64(), "Updates before this loss.", "steps"),
        _column("loss", pa.float64(), "Weighted sum of the terms."),
        _column("clip", pa.float64(), "1 - cosine of edited image and prompt.", "0 to 2"),
        _column("identity", pa.float64(), "1 - cosine of the identities.", "0 to 2"),
        _column("l2", pa.float64(), "Mean squared distance to the source latent."),
        _column("seconds", pa.float64(), "Time for the step.", "s", nullable=True),
    ]
)
