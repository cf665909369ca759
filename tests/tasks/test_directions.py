"""The direction store: block by block the same numbers as in one piece."""

import numpy as np
import pytest
import torch
import zarr

import tasks.directions
from styleclip_ops.clip import ClipModel
from styleclip_ops.relevance import channel_clip_directions
from styleclip_ops.style_statistics import sample_style_codes, style_statistics
from tasks.directions import (
    DirectionStore,
    DirectionStoreError,
    RelevanceConfig,
    compute_relevance_shard,
    direction_folder,
    plan_relevance,
)
from tasks.models import open_models
from tasks.storage import Folder

CONFIG = RelevanceConfig(num_images=2, num_statistics=50, mode="exact")


def build(root: str, models: str, shards: list[int]) -> None:
    for shard in shards:
        compute_relevance_shard(root, models, "cpu", CONFIG, shard, batch_size=4)


def store_of(root: str, models: str) -> DirectionStore:
    return DirectionStore(direction_folder(Folder(root), open_models(models, "cpu"), CONFIG))


def test_blocks_add_up_to_the_whole(root, models):
    shards = plan_relevance(root, models, "cpu", CONFIG, block_size=50)
    build(root, models, shards[:1])
    # A second call plans what is left.
    build(root, models, plan_relevance(root, models, "cpu", CONFIG, block_size=50))
    found = store_of(root, models).read()
    networks = open_models(models, "cpu")
    statistics = style_statistics(networks.generator, 50, seed=CONFIG.seed)
    codes = torch.cat([*sample_style_codes(networks.generator, 2, seed=CONFIG.seed)])
    whole = channel_clip_directions(networks.generator, networks.clip, codes, statistics.std)
    torch.testing.assert_close(found.channel_clip_directions, whole, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found.channel_std, statistics.std)


def test_an_unfinished_store_is_refused(tmp_path, models):
    root = str(tmp_path)
    with pytest.raises(DirectionStoreError, match="not finished"):
        store_of(root, models).read()
    build(root, models, plan_relevance(root, models, "cpu", CONFIG, block_size=50)[1:])
    with pytest.raises(DirectionStoreError, match="not finished"):
        store_of(root, models).read()


def test_a_lost_chunk_is_named(tmp_path, models):
    root = str(tmp_path)
    build(root, models, plan_relevance(root, models, "cpu", CONFIG, block_size=50))
    store = store_of(root, models)
    group = zarr.open_group(store.folder.zarr_store("directions.zarr"), mode="r+")
    group["channel_clip_directions"][3] = np.nan
    with pytest.raises(DirectionStoreError, match="a chunk is lost"):
        store.read()


def test_another_way_of_measuring_is_another_store(tmp_path, models):
    networks, folder = open_models(models, "cpu"), Folder(str(tmp_path))
    other = RelevanceConfig(num_images=3, num_statistics=50, mode="exact")
    assert (
        direction_folder(folder, networks, CONFIG).url
        != direction_folder(folder, networks, other).url
    )


def test_a_stopped_measurement_goes_on_after_its_last_image(tmp_path, monkeypatch, models):
    config = RelevanceConfig(num_images=3, num_statistics=50, mode="fast")
    monkeypatch.setattr(tasks.directions, "CHECKPOINT_SECONDS", 0)

    def measure(root: str) -> DirectionStore:
        (shard,) = plan_relevance(root, models, "cpu", config, block_size=50)
        compute_relevance_shard(root, models, "cpu", config, shard, batch_size=64)
        return DirectionStore(direction_folder(Folder(root), open_models(models, "cpu"), config))

    embed, images = ClipModel.embed_images, 0

    def embed_some(self, pictures):
        nonlocal images
        images += 1
        if images > limit:
            raise KeyboardInterrupt
        return embed(self, pictures)

    limit = 10_000
    monkeypatch.setattr(ClipModel, "embed_images", embed_some)
    whole, every = measure(str(tmp_path / "whole")), images
    images, limit = 0, every - 1
    with pytest.raises(KeyboardInterrupt):
        measure(str(tmp_path / "stopped"))
    images, limit = 0, 10_000
    stopped = measure(str(tmp_path / "stopped"))
    # Two of three images were done before, and the third renders no more channels.
    assert 0 < images <= every / 3
    facts = [store.ledger.read_commit(0).facts for store in (whole, stopped)]
    assert facts[0] | {"seconds": 0} == facts[1] | {"seconds": 0}
    assert 0.9 < facts[0]["fidelity"] <= 1
    assert 0 <= facts[0]["rendered_channels"] < whole.ledger.units(0)["count"][0].as_py()
    assert stopped.read().fingerprint == whole.read().fingerprint
    assert (stopped.folder / "checkpoints").names() == []


@pytest.mark.parametrize("files", [1, 5, 7])
def test_a_store_whose_making_was_stopped_is_made_on(tmp_path, stopped_after, models, files):
    config = RelevanceConfig(num_images=1, num_statistics=50, mode="exact")
    root = str(tmp_path)
    with stopped_after(files):
        plan_relevance(root, models, "cpu", config, block_size=100)
    # Another size of blocks: those that were begun with stay.
    for shard in plan_relevance(root, models, "cpu", config, block_size=40):
        compute_relevance_shard(root, models, "cpu", config, shard, batch_size=16)
    store = DirectionStore(direction_folder(Folder(root), open_models(models, "cpu"), config))
    assert store.ledger.units(0)["count"].to_pylist() == [100]
    store.read()
