"""The direction store: block by block the same numbers as in one piece."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch
import zarr

from styleclip_ops.relevance import channel_clip_directions
from styleclip_ops.style_statistics import sample_style_codes, style_statistics
from tasks.directions import (
    CHECK,
    MEASURE,
    DirectionStore,
    DirectionStoreError,
    RelevanceConfig,
    begun_relevance,
    choose_relevance,
    compute_relevance_shard,
    direction_folder,
    measured_otherwise,
    plan_relevance,
)
from tasks.models import open_models
from tasks.store.folders import Folder

CONFIG = RelevanceConfig(num_images=2, num_statistics=50, mode="exact")


def build(root: str, models: str, shards: list[int]) -> None:
    for shard in shards:
        compute_relevance_shard(root, models, "cpu", CONFIG, shard, batch_size=4)


def store_of(root: str, models: str) -> DirectionStore:
    return DirectionStore(direction_folder(Folder(root), open_models(models, "cpu"), CONFIG))


@pytest.mark.parametrize("mode", ["exact", "fast", "published"])
def test_blocks_add_up_to_the_whole(tmp_path, models, mode, measure_directions):
    # The published loop takes longest, and its blocks are like those of the others.
    images = 3 if mode == "published" else 5
    root, config = str(tmp_path), RelevanceConfig(images, num_statistics=50, mode=mode)
    plan_relevance(root, models, "cpu", config, shard_size=2)
    store = measure_directions(root, models, config)
    # The blocks are those that were planned first.
    checks = [1, 1] if mode == "fast" else []
    blocks = {"exact": [2, 2, 1], "fast": [*checks, 2, 1], "published": [2, 1]}[mode]
    assert [store.unit(shard)["count"] for shard in store.ledger.plans()] == [*blocks, images]
    found, networks = store.read(), open_models(models, "cpu")
    statistics = style_statistics(networks.generator, 50, seed=config.seed)
    codes = torch.cat([*sample_style_codes(networks.generator, images, seed=config.seed)])
    whole = channel_clip_directions(
        networks.generator, networks.clip, codes, statistics.std, mode=mode
    )
    torch.testing.assert_close(found.channel_clip_directions, whole, atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(found.channel_std, statistics.std)
    assert store.combine() == {}


def test_an_unfinished_store_is_refused(tmp_path, models):
    root = str(tmp_path)
    with pytest.raises(DirectionStoreError, match="a folder without directions"):
        store_of(root, models).read()
    store = plan_relevance(root, models, "cpu", CONFIG, shard_size=1)
    first, last = store.pending(MEASURE)
    build(root, models, [last])
    assert store.combine() == {}
    with pytest.raises(DirectionStoreError, match="not finished"):
        store.read()
    build(root, models, [first])
    with pytest.raises(DirectionStoreError, match="not finished"):
        store.read()
    assert store.combine()["channels that move CLIP"] > 100
    store.read()


def test_slopes_wait_for_what_checks_them(tmp_path, models):
    root, config = str(tmp_path), RelevanceConfig(num_images=4, num_statistics=50, mode="fast")
    store = plan_relevance(root, models, "cpu", config)
    (one, two), others = store.pending(CHECK), store.pending(MEASURE)
    assert len(others) == 2
    compute_relevance_shard(root, models, "cpu", config, one, batch_size=16)
    with pytest.raises(DirectionStoreError, match="got 1 images that are not checked yet"):
        compute_relevance_shard(root, models, "cpu", config, others[0], batch_size=16)
    compute_relevance_shard(root, models, "cpu", config, two, batch_size=16)
    compute_relevance_shard(root, models, "cpu", config, others[0], batch_size=16)
    compute_relevance_shard(root, models, "cpu", config, others[1], batch_size=16)
    store.combine()
    facts = store.ledger.read_commit(store.ledger.plans()[-1]).facts
    assert 0.9 < facts["fidelity"] <= 1
    assert 0 <= facts["rendered_channels"] < len(store.slope_check().agreement)
    assert 1 < facts["slopes_of_an_image"] <= open_models(models, "cpu").clip.embedding_dim


def test_a_lost_chunk_is_named(tmp_path, models, measure_directions):
    store = measure_directions(str(tmp_path), models, CONFIG)
    group = zarr.open_group(store.folder.zarr_store("directions.zarr"), mode="r+")
    group["channel_clip_directions"][3] = np.nan
    with pytest.raises(DirectionStoreError, match="a chunk is lost"):
        store.read()


@pytest.mark.parametrize("name", ["channel_mean", "channel_std"])
def test_lost_statistics_are_no_zeros(tmp_path, models, measure_directions, name):
    store = measure_directions(str(tmp_path), models, CONFIG)
    (chunk,) = (Path(store.folder.url) / "directions.zarr" / name / "c").rglob("0")
    chunk.unlink()
    with pytest.raises(DirectionStoreError, match="a chunk is lost"):
        store.read()
    if name == "channel_std":
        with pytest.raises(DirectionStoreError, match="a chunk is lost"):
            store.channel_std()


def test_a_lost_agreement_of_slopes_is_named(tmp_path, models):
    config = RelevanceConfig(4, num_statistics=50, mode="fast")
    store = plan_relevance(str(tmp_path), models, "cpu", config)
    for shard in store.pending(CHECK):
        compute_relevance_shard(str(tmp_path), models, "cpu", config, shard, batch_size=4)
    for chunk in tmp_path.rglob("slope_agreement/c/*/*"):
        chunk.unlink()
    with pytest.raises(DirectionStoreError, match="got NaN, expected numbers; a chunk is lost"):
        store.slope_check()


@pytest.mark.parametrize("values", [{"step": np.inf}, {"seed": -1}, {"seed": 2**32}])
def test_settings_that_cannot_be_measured_with_are_refused(values):
    with pytest.raises(ValueError, match=r"step inf, expected|seed: got"):
        RelevanceConfig(**values)


def test_sums_that_changed_after_their_commit_are_not_combined(tmp_path, models):
    root = str(tmp_path)
    store = plan_relevance(root, models, "cpu", CONFIG)
    build(root, models, store.pending(MEASURE))
    group = zarr.open_group(store.folder.zarr_store("directions.zarr"), mode="r+")
    group["direction_sums"][1] = 0
    with pytest.raises(DirectionStoreError, match="remove the commit of shard 1"):
        store.combine()
    (store.folder / "_commits").remove("shard-00001.json")
    build(root, models, store.pending(MEASURE))
    assert store.combine()["channels that move CLIP"] > 100


def test_another_way_of_measuring_is_another_store(tmp_path, models):
    networks, folder = open_models(models, "cpu"), Folder(str(tmp_path))
    other = RelevanceConfig(num_images=3, num_statistics=50, mode="exact")
    assert (
        direction_folder(folder, networks, CONFIG).url
        != direction_folder(folder, networks, other).url
    )


def test_what_was_measured_otherwise_is_found_with_its_options(
    tmp_path, models, measure_directions
):
    root, networks = str(tmp_path), open_models(models, "cpu")
    plan_relevance(root, models, "cpu", CONFIG)
    usual = RelevanceConfig()
    assert measured_otherwise(Folder(root), networks, usual) == {}
    store = measure_directions(root, models, CONFIG)
    wanted = {store.folder.url: "--num-images 2 --num-statistics 50 --mode exact"}
    assert measured_otherwise(Folder(root), networks, usual) == wanted
    assert measured_otherwise(Folder(root), networks, CONFIG) == {}


def test_directions_that_are_there_are_taken_where_nothing_is_asked(
    tmp_path, models, measure_directions
):
    root, networks, usual = Folder(str(tmp_path)), open_models(models, "cpu"), RelevanceConfig()
    assert choose_relevance(root, networks, None) == usual
    fewer = RelevanceConfig(num_images=1, num_statistics=50, mode="exact")
    measure_directions(root.url, models, fewer)
    measure_directions(root.url, models, CONFIG)
    assert choose_relevance(root, networks, None) == CONFIG
    assert choose_relevance(root, networks, fewer) == fewer
    assert choose_relevance(root, networks, None, fewer) == fewer
    # A measurement that was begun and given up does not stand in the way of a finished one.
    plan_relevance(root.url, models, "cpu", usual)
    assert choose_relevance(root, networks, None) == CONFIG


def test_how_the_directions_of_a_run_were_measured_is_known_by_their_name_or_by_its_note(
    tmp_path, models, measure_directions
):
    root, networks = Folder(str(tmp_path)), open_models(models, "cpu")
    begun = measure_directions(root.url, models, CONFIG).folder
    lost = direction_folder(root, networks, replace(CONFIG, seed=6)).url
    # The workspace was moved, or is named by another address.
    assert begun_relevance(root, networks, f"moved/{begun.name}", {}) == CONFIG
    assert begun_relevance(root, networks, lost, {}) is None
    assert begun_relevance(root, networks, lost, asdict(replace(CONFIG, seed=6))).seed == 6
    # A note that is of other networks, or of none.
    assert begun_relevance(root, networks, lost, asdict(CONFIG)) is None
    assert begun_relevance(root, networks, "", {}) is None


def test_processes_that_combine_at_once_agree(tmp_path, models):
    root = str(tmp_path)
    store = plan_relevance(root, models, "cpu", CONFIG)
    build(root, models, store.pending(MEASURE))
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: store_of(root, models).combine(), range(4)))
    assert store.ledger.pending() == []
    last = store.ledger.plans()[-1]
    assert store.digest(last) == store.ledger.read_commit(last).facts["sha256"]


@pytest.mark.parametrize("files", [1, 5, 7])
def test_a_store_whose_making_was_stopped_is_made_on(
    tmp_path, stopped_after, models, files, measure_directions
):
    config = RelevanceConfig(num_images=5, num_statistics=50, mode="exact")
    root = str(tmp_path)
    with stopped_after(files):
        plan_relevance(root, models, "cpu", config, shard_size=3)
    # Another size of blocks: those that were begun with stay.
    plan_relevance(root, models, "cpu", config, shard_size=2)
    store = measure_directions(root, models, config)
    assert [store.unit(shard)["count"] for shard in store.ledger.plans()] == [3, 2, 5]
    store.read()


def test_blocks_of_nothing(tmp_path, models):
    with pytest.raises(DirectionStoreError, match="shard_size: got 0"):
        plan_relevance(str(tmp_path), models, "cpu", CONFIG, shard_size=0)


def test_what_takes_long_tells_how_far_it_is(tmp_path, models):
    faces, shares = list[int](), list[float]()
    config = RelevanceConfig(1, num_statistics=1_100, mode="exact")
    plan_relevance(str(tmp_path), models, "cpu", config, on_progress=faces.append)
    assert faces == [512, 1_024, 1_100]
    compute_relevance_shard(
        str(tmp_path), models, "cpu", config, 0, batch_size=8, on_progress=shares.append
    )
    assert len(shares) > 8
    assert shares[-1] == pytest.approx(1)
