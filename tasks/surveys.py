"""What edits need beside networks and latents, from the rows that ask for them."""

import json
from collections.abc import Iterable
from typing import NamedTuple

import pyarrow.compute as pc

from manifests.instructions import Instruction
from tasks.manifest_files import stream_manifest
from tasks.mappers import MapperConfig


class Survey(NamedTuple):
    """What the rows of a manifest need.

    Attributes:
        methods: Those that they use.
        mappers: Prompts and settings of the mappers that are to be trained.
        mapper_uris: Mappers that they name.
    """

    methods: set[str]
    mappers: list[tuple[str, MapperConfig]]
    mapper_uris: list[str]


def survey_manifest(manifest: str) -> Survey:
    """Find out what the rows of a manifest need.

    Raises:
        ManifestError: It is not there, or a row has a mistake.
    """
    methods, wanted = set[str](), dict[tuple[str, str | None], None]()
    uris = dict[str, None]()
    for batch in stream_manifest(manifest):
        methods.update(batch["method"].to_pylist())
        rows = batch.filter(pc.equal(batch["method"], "mapper"))
        columns = (rows[name].to_pylist() for name in ("mapper_uri", "target_prompt", "options"))
        for uri, prompt, options in zip(*columns, strict=True):
            if uri is None:
                wanted[prompt, options] = None
            else:
                uris[uri] = None
    return Survey(methods, _trainings(wanted), [*uris])


def survey_prompts(asked: Iterable[Instruction]) -> Survey:
    """Find out what instructions need, as the rows of a manifest would."""
    prompts = [*asked]
    mappers = [one for one in prompts if one.method == "mapper"]
    wanted = dict.fromkeys((m.target_prompt, m.options) for m in mappers if m.mapper_uri is None)
    uris = dict.fromkeys(m.mapper_uri for m in mappers if m.mapper_uri is not None)
    return Survey({one.method for one in prompts}, _trainings(wanted), [*uris])


def _trainings(wanted: Iterable[tuple[str, str | None]]) -> list[tuple[str, MapperConfig]]:
    """Prompts with options -> prompts with settings."""
    return [(prompt, MapperConfig(**json.loads(options or "{}"))) for prompt, options in wanted]
