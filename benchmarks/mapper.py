"""A step of mapper training against the published one: batch 2, Ranger, the source rendered too.

Both make the same updates, so that the same number of steps gives the same loss.
"""

from collections.abc import Iterator

import torch

from benchmarks import plain_generator
from benchmarks.networks import PROMPTS, large_networks, random_latents
from benchmarks.paired import Ratio, compare
from styleclip_ops.losses import SourceIdentities, cosine_distance
from styleclip_ops.mapper import LevelsMapper
from styleclip_ops.mapper_training import MapperLossConfig, SourceBatch, train_mapper
from styleclip_ops.ranger import Ranger


def run(device: str = "cpu") -> Iterator[Ratio]:
    """Compare a step at 256 px with CLIP and identity losses."""
    networks = large_networks(device)
    generator, clip, identity = networks.generator, networks.clip, networks.identity
    w_plus = random_latents(generator, 2)
    text = clip.embed_texts([PROMPTS[0]])
    sources = SourceIdentities(identity, lambda row: generator(w_plus[row : row + 1]))
    batch = SourceBatch(w_plus, sources.of([0, 1]))
    losses: dict[str, float] = {}

    def ours() -> None:
        mapper, optimizer = _fresh(device)
        config = MapperLossConfig()
        training = train_mapper(
            generator, clip, mapper, optimizer, iter([batch]), text, config, identity
        )
        losses["ours"] = float(next(training).total)

    def published() -> None:
        mapper, optimizer = _fresh(device)
        edited = mapper.edit(w_plus)
        with torch.no_grad():
            before = plain_generator.synthesize(generator, generator.w_plus_to_s(w_plus))
        images = plain_generator.synthesize(generator, generator.w_plus_to_s(edited))
        person = identity.embed(before).detach()
        loss = (
            0.1 * cosine_distance(identity.embed(images), person).mean()
            + cosine_distance(clip.embed_images(images), text).mean()
            + 0.8 * (edited - w_plus).square().mean()
        )
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        losses["published"] = float(loss.detach())

    ratio = compare("mapper training 256 px: a step of the published batch", ours, published, 2)
    if abs(losses["ours"] - losses["published"]) > 1e-3:
        raise RuntimeError(f"the two steps have different losses: {losses}")
    yield ratio


def _fresh(device: str) -> tuple[LevelsMapper, Ranger]:
    torch.manual_seed(0)
    mapper = LevelsMapper().to(device)
    return mapper, Ranger(mapper.parameters(), lr=0.5)
