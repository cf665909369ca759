"""Mapper assets: a stopped training ends with the same weights as one that was not."""

import json
import math
from dataclasses import replace

import pytest
import safetensors.torch
import torch

from manifests.options import OPTIONS, OptionsError, read_options
from manifests.schemas import MAPPER_LOG
from styleclip_ops.errors import CheckpointError, ConfigError
from styleclip_ops.mapper import WithoutToRGBStyleSpaceMapper
from tasks.directions import RelevanceConfig, direction_folder
from tasks.mappers import (
    MapperConfig,
    mapper_folder,
    read_mapper,
    require_mappers,
    slug,
    train_prompt_mapper,
)
from tasks.models import open_models
from tasks.store.folders import Folder
from tasks.store.ledger import read_table

MAPPER = OPTIONS["mapper"]
CONFIG = MapperConfig(steps=7, mapper_type="style_space", learning_rate=0.05)


def train(root: str, models: str, **options) -> Folder:
    return Folder(train_prompt_mapper(root, models, "cpu", "a sad face", CONFIG, 2, **options))


def stop_at(step: int):
    def on_progress(done: int) -> None:
        if done == step:
            raise KeyboardInterrupt

    return on_progress


@pytest.mark.parametrize("stop", [1, 3, 6])
def test_a_stopped_training_continues_to_the_same_weights(tmp_path, models, stop):
    whole = train(str(tmp_path / "whole"), models)
    with pytest.raises(KeyboardInterrupt):
        train(str(tmp_path / "stopped"), models, on_progress=stop_at(stop))
    stopped = train(str(tmp_path / "stopped"), models)
    assert stopped.read("mapper.safetensors") == whole.read("mapper.safetensors")
    assert stopped.names() == ["mapper.json", "mapper.safetensors", "training.parquet"]


def test_of_two_trainings_the_first_is_believed(tmp_path, models):
    root = str(tmp_path)
    first = dict[str, bytes]()

    def overtake(done: int) -> None:
        if done == 3:
            # Another process begins later, and is faster.
            folder = train(root, models)
            first.update({name: folder.read(name) for name in folder.names()})

    folder = train(root, models, on_progress=overtake)
    assert {name: folder.read(name) for name in folder.names()} == first
    assert "checkpoint.pt" not in first


def test_an_asset_says_what_it_is_and_is_made_once(root, models):
    folder = train(root, models)
    card = json.loads(folder.read("mapper.json"))
    assert card["target_prompt"] == "a sad face"
    assert card["config"]["steps"] == 7
    made = folder.read("training.parquet")
    assert train(root, models).read("training.parquet") == made
    # The terms of the loss by step, and the mapper alone.
    log = read_table(made)
    assert (log.schema, log["step"].to_pylist()) == (MAPPER_LOG, [*range(7)])
    terms = zip(
        *(log[name].to_pylist() for name in ("loss", "clip", "identity", "l2")), strict=True
    )
    for loss, clip, identity, l2 in terms:
        assert loss == pytest.approx(clip + 0.1 * identity + 0.8 * l2, rel=1e-4)
    networks = open_models(models, "cpu")
    own = WithoutToRGBStyleSpaceMapper(networks.generator.layout).state_dict()
    stored = safetensors.torch.load(folder.read("mapper.safetensors"))
    assert {n: t.shape for n, t in stored.items()} == {n: t.shape for n, t in own.items()}


def test_a_training_leaves_the_random_numbers_of_the_process_alone(tmp_path, models):
    before = torch.random.get_rng_state()
    first = train(str(tmp_path / "first"), models)
    assert torch.equal(torch.random.get_rng_state(), before)
    torch.rand(3)
    second = train(str(tmp_path / "second"), models)
    assert first.read("mapper.safetensors") == second.read("mapper.safetensors")


def test_a_mapper_of_another_generator_is_refused(tmp_path, models):
    folder = train(str(tmp_path), models)
    card = json.loads(folder.read("mapper.json"))
    folder.write("mapper.json", json.dumps(card | {"generator_fingerprint": "other"}).encode())
    with pytest.raises(ConfigError, match="got a mapper for the generator other"):
        read_mapper(folder, open_models(models, "cpu"))


def test_mappers_that_a_manifest_names_are_checked(tmp_path, models, monkeypatch):
    networks = open_models(models, "cpu")
    folder = train(str(tmp_path), models)
    require_mappers([folder.url], networks)
    with pytest.raises(ConfigError, match="expected a finished mapper"):
        require_mappers([folder.url, f"{folder.url}-"], networks)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match="got mappers/.*, expected the whole path or a URL"):
        require_mappers([folder.url.removeprefix(f"{tmp_path}/")], networks)
    folder.write("mapper.safetensors", b"cut off")
    with pytest.raises(ConfigError, match=f"mapper_uri: {folder.url}: "):
        require_mappers([folder.url], networks)


def test_a_training_that_diverges_makes_no_mapper(tmp_path, models):
    wild = replace(CONFIG, learning_rate=1e30)
    with pytest.raises(ConfigError, match=r"'a sad face': got a loss of nan in step .* a lower"):
        train_prompt_mapper(str(tmp_path), models, "cpu", "a sad face", wild)
    assert not [*tmp_path.rglob("mapper.safetensors")]


def test_a_damaged_mapper_is_named_by_its_address(tmp_path, models):
    folder = train(str(tmp_path), models)
    folder.write("mapper.safetensors", b"nothing")
    with pytest.raises(CheckpointError, match=rf"{folder.url}/mapper\.safetensors: "):
        read_mapper(folder, open_models(models, "cpu"))


def test_a_damaged_checkpoint_is_named(tmp_path, models):
    with pytest.raises(KeyboardInterrupt):
        train(str(tmp_path), models, on_progress=stop_at(3))
    (folder,) = (Folder(str(path)) for path in tmp_path.glob("mappers/*"))
    folder.write("checkpoint.pt", folder.read("checkpoint.pt")[:-100])
    with pytest.raises(ConfigError, match=r"checkpoint\.pt: got a damaged checkpoint"):
        train(str(tmp_path), models)


def test_a_checkpoint_of_another_device_is_taken(tmp_path, models, monkeypatch):
    whole = train(str(tmp_path / "whole"), models)
    with pytest.raises(KeyboardInterrupt):
        train(str(tmp_path / "stopped"), models, on_progress=stop_at(3))
    asked, load = list[object](), torch.load

    def spy(*given: object, map_location: object = None, **options: object) -> object:
        asked.append(map_location)
        return load(*given, map_location=map_location, **options)

    monkeypatch.setattr(torch, "load", spy)
    stopped = train(str(tmp_path / "stopped"), models)
    # Without it, what was saved on an accelerator is read on that one alone.
    assert asked == ["cpu"]
    assert stopped.read("mapper.safetensors") == whole.read("mapper.safetensors")


def test_equal_settings_have_one_folder(tmp_path, models):
    root, networks = Folder(str(tmp_path)), open_models(models, "cpu")
    whole, numbers = MapperConfig(l2_lambda=1), MapperConfig(l2_lambda=1.0)
    folders = {mapper_folder(root, networks, "sad", one).url for one in (whole, numbers)}
    assert len(folders) == 1
    stores = {direction_folder(root, networks, RelevanceConfig(step=step)).url for step in (5, 5.0)}
    assert len(stores) == 1


def test_an_unfinished_mapper_is_refused(tmp_path, models):
    networks = open_models(models, "cpu")
    with pytest.raises(ConfigError, match="expected a finished mapper"):
        read_mapper(mapper_folder(Folder(str(tmp_path)), networks, "a sad face", CONFIG), networks)


@pytest.mark.parametrize(
    ("prompt", "name"),
    [
        ("A  smiling/face!", "a-smiling-face"),
        ("<b>", "b"),
        ("\u7b11\u9854", "prompt"),
        ("x" * 90, "x" * 40),
    ],
)
def test_prompts_become_safe_names(prompt, name):
    assert slug(prompt) == name


@pytest.mark.parametrize(
    "values",
    [
        {"steps": 0},
        {"mapper_type": "x"},
        {"l2_lambda": -1.0},
        {"batch_size": 5000},
        {"truncation_psi": 1.5},
        {"learning_rate": math.inf},
        {"coarse": 1},
    ],
)
def test_settings_are_checked_before_any_model_as_in_a_manifest(values):
    (name,) = values
    with pytest.raises(ConfigError, match=f"{name}: got .*, expected {MAPPER[name].expected}"):
        MapperConfig(**values)
    with pytest.raises(OptionsError, match=name):
        read_options("mapper", json.dumps(values))


@pytest.mark.parametrize("damaged", [b"", b'{"generator_fing', b"[]", b"{}"])
def test_a_damaged_card_is_named_and_written_anew_by_the_same_training(root, models, damaged):
    folder, networks = train(root, models), open_models(models, "cpu")
    card, weights = json.loads(folder.read("mapper.json")), folder.read("mapper.safetensors")
    folder.write("mapper.json", damaged)
    with pytest.raises(
        ConfigError, match=r"/mapper\.json: got a damaged card, .*again that trained"
    ):
        require_mappers([folder.url], networks)
    train(root, models)
    require_mappers([folder.url], networks)
    written = json.loads(folder.read("mapper.json"))
    # What only the training knew is not made up.
    assert {*card} - {*written} == {"code_version", "final_loss"}
    assert written.items() <= card.items()
    assert folder.read("mapper.safetensors") == weights
