"""What edits need beside networks and latents, from the rows that ask for them."""

import json
from collections.abc import Iterable
from typing import NamedTuple

import pyarrow.compute as pc

from manifests.errors import ManifestError
from manifests.instructions import Instruction
from styleclip_ops.generator import Generator
from tasks.manifest_files import stream_manifest
from tasks.mappers import MapperConfig


class Survey(NamedTuple):
    """What the rows of a manifest need.

    Attributes:
        methods: Those that they use.
        mappers: Prompts and settings of the mappers that are to be trained.
        mapper_uris: Mappers that they name.
        num_channels: The most style channels that one asks for; 0 where none says how many.
    """

    methods: set[str]
    mappers: list[tuple[str, MapperConfig]]
    mapper_uris: list[str]
    num_channels: int = 0

    def require_channels(self, generator: Generator) -> None:
        """Refuse rows that ask for more style channels than a generator has.

        Raises:
            ManifestError: One does.
        """
        most = len(generator.layout.editable_channels)
        if self.num_channels > most:
            raise ManifestError(
                f"num_channels: got {self.num_channels} in the manifest, expected at most {most}, "
                "the editable style channels of this generator; give less, or another --models"
            )


def survey_manifest(manifest: str) -> Survey:
    """Find out what the rows of a manifest need.

    Raises:
        ManifestError: It is not there, has no rows, or a row has a mistake.
    """
    methods, wanted = set[str](), dict[tuple[str, str | None], None]()
    uris, num_channels = dict[str, None](), 0
    for batch in stream_manifest(manifest):
        methods.update(batch["method"].to_pylist())
        num_channels = max(num_channels, pc.max(batch["num_channels"]).as_py() or 0)
        rows = batch.filter(pc.equal(batch["method"], "mapper"))
        columns = (rows[name].to_pylist() for name in ("mapper_uri", "target_prompt", "options"))
        for uri, prompt, options in zip(*columns, strict=True):
            if uri is None:
                wanted[prompt, options] = None
            else:
                uris[uri] = None
    if not methods:
        raise ManifestError("manifest: got no rows, expected at least one edit")
    return Survey(methods, _trainings(wanted), [*uris], num_channels)


def survey_prompts(asked: Iterable[Instruction]) -> Survey:
    """Find out what instructions need, as the rows of a manifest would."""
    prompts = [*asked]
    mappers = [one for one in prompts if one.method == "mapper"]
    wanted = dict.fromkeys((m.target_prompt, m.options) for m in mappers if m.mapper_uri is None)
    uris = dict.fromkeys(m.mapper_uri for m in mappers if m.mapper_uri is not None)
    num_channels = max((one.num_channels or 0 for one in prompts), default=0)
    return Survey({one.method for one in prompts}, _trainings(wanted), [*uris], num_channels)


def _trainings(wanted: Iterable[tuple[str, str | None]]) -> list[tuple[str, MapperConfig]]:
    """Prompts with options -> prompts with settings."""
    return [(prompt, MapperConfig(**json.loads(options or "{}"))) for prompt, options in wanted]
