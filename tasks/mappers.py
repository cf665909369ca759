"""Mapper assets: one small network for one prompt, trained so that it can be stopped anywhere."""

import io
import json
import pickle
import re
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Literal

import pyarrow as pa
import torch
from torch import Tensor

from manifests.options import OPTIONS
from manifests.schemas import MAPPER_LOG
from styleclip_ops.checkpoints import load_mapper, save_safetensors
from styleclip_ops.errors import CheckpointError, ConfigError
from styleclip_ops.generator import Generator
from styleclip_ops.losses import SourceIdentities
from styleclip_ops.mapper import (
    LevelsMapper,
    Mapper,
    SingleMapper,
    WithoutToRGBStyleSpaceMapper,
)
from styleclip_ops.mapper_training import MapperLossConfig, SourceBatch, train_mapper
from styleclip_ops.ranger import Ranger
from tasks.bundles import Role
from tasks.models import Models, NamedContent, open_models
from tasks.places import MAPPERS
from tasks.provenance import CODE_VERSION
from tasks.store.folders import Folder, sha256
from tasks.store.ledger import read_table, table_bytes

MapperType = Literal["levels", "single", "style_space"]
WEIGHTS, CARD, LOG, CHECKPOINT = (
    "mapper.safetensors",
    "mapper.json",
    "training.parquet",
    "checkpoint.pt",
)

# Steps between checkpoints.
CHECKPOINT_STEPS = 200

# Letters of a prompt in a file name.
_LONGEST = 40


class MapperError(ConfigError):
    """A mapper cannot be used."""


@dataclass(frozen=True)
class MapperConfig:
    """How a mapper is trained (StyleCLIP, section 5); published but for `steps`, `num_latents`.

    Attributes:
        mapper_type: `levels` and `single` edit W+, `style_space` edits S without toRGB.
        steps: Updates; 50,000 published.
        batch_size: Latents in a step.
        learning_rate: Of Ranger.
        clip_lambda: Weight of the prompt in the loss.
        id_lambda: Weight of the identity; 0 where there is no identity network for the domain.
        l2_lambda: Weight of staying near the source latent.
        coarse: Whether a `levels` mapper edits layers 0 to 3.
        medium: Whether it edits layers 4 to 7.
        fine: Whether it edits the others.
        truncation_psi: Of the random faces that it learns from.
        num_latents: Random faces that it learns from, each rendered unedited once; 5,000 published.
        seed: Of the initial weights and the random faces.
    """

    mapper_type: MapperType = "levels"
    steps: int = 2_000
    batch_size: int = 2
    learning_rate: float = 0.5
    clip_lambda: float = 1.0
    id_lambda: float = 0.1
    l2_lambda: float = 0.8
    coarse: bool = True
    medium: bool = True
    fine: bool = True
    truncation_psi: float = 0.7
    num_latents: int = 1_000
    seed: int = 0

    def __post_init__(self) -> None:
        for name, option in OPTIONS["mapper"].items():
            value = getattr(self, name)
            try:
                # Each in its own type: equal settings have one address.
                object.__setattr__(self, name, option.read(value))
            except (ValueError, OverflowError):
                raise ConfigError(f"{name}: got {value!r}, expected {option.expected}") from None

    def loss_config(self) -> MapperLossConfig:
        """Return the weights of the loss."""
        return MapperLossConfig(self.clip_lambda, self.id_lambda, self.l2_lambda)


def mapper_folder(
    workspace: Folder, models: Models, target_prompt: str, config: MapperConfig
) -> Folder:
    """Return where the mapper of a prompt is in a workspace."""
    key = _binding(models) | {"target_prompt": target_prompt, "config": asdict(config)}
    digest = sha256(json.dumps(key, sort_keys=True).encode())[:12]
    return workspace / MAPPERS / f"{slug(target_prompt)}-{digest}"


def slug(text: str) -> str:
    """Turn a prompt into a part of a file name."""
    return re.sub(r"[^a-z0-9]+", "-", text.lower()).strip("-")[:_LONGEST].strip("-") or "prompt"


def read_mapper(folder: Folder, models: Models) -> tuple[Mapper, str]:
    """Load a finished mapper and the fingerprint of its weights.

    Raises:
        MapperError: It was trained for another generator, is not finished, or its card is damaged.
    """
    if not folder.exists(WEIGHTS):
        raise MapperError(
            f"{folder.url}: got no {WEIGHTS}, expected a finished mapper; "
            "run `styleclip train-mapper` to its end"
        )
    got, own = trained_for(folder), models.fingerprint("generator")
    if got not in ("", own):
        raise MapperError(
            f"{folder.url}: got a mapper for the generator {got}, expected {own}; train one for "
            "this generator"
        )
    content = folder.read(WEIGHTS)
    mapper = load_mapper(NamedContent(content, folder.url_of(WEIGHTS)))
    mapper = mapper.to(models.device).eval().requires_grad_(False)
    return mapper, sha256(content)[:16]


def trained_for(folder: Folder) -> str:
    """Return the fingerprint of a mapper's generator; empty where it has no card to say it.

    Raises:
        MapperError: The card is damaged.
    """
    try:
        return str(json.loads(folder.read(CARD))["generator_fingerprint"])
    except FileNotFoundError:
        return ""
    except (ValueError, LookupError, TypeError) as error:
        raise MapperError(
            f"{folder.url}/{CARD}: got a damaged card, expected one with generator_fingerprint; "
            "restore it from a copy, or give the command again that trained the mapper, which "
            "writes it anew"
        ) from error


def require_mappers(urls: Iterable[str], models: Models) -> None:
    """See that mappers which a manifest names are there, before any work for its other rows.

    Raises:
        ConfigError: One is not finished, cannot be read, or was trained for another generator; or
            its address depends on the folder that a command is given in.
    """
    for url in urls:
        if "://" not in url and not url.startswith("/"):
            raise ConfigError(
                f"mapper_uri: got {url}, expected the whole path or a URL: workers and later "
                "commands may run in other folders"
            )
        try:
            read_mapper(Folder(url), models)
        except CheckpointError as error:
            raise ConfigError(f"mapper_uri: {url}: {error}") from error


def mapper_fingerprint(url: str) -> str:
    """Return the fingerprint of a mapper's weights, empty where there is no finished mapper."""
    try:
        return sha256(Folder(url).read(WEIGHTS))[:16]
    except FileNotFoundError:
        return ""


def train_prompt_mapper(
    workspace: str,
    models: str,
    device: str,
    target_prompt: str,
    config: MapperConfig,
    checkpoint_steps: int = CHECKPOINT_STEPS,
    on_progress: Callable[[int], None] | None = None,
) -> str:
    """Train the mapper of a prompt, from its checkpoint if there is one.

    An interrupted training ends with the same weights as an uninterrupted one.

    Args:
        workspace: URL of the workspace.
        models: URL of the bundle.
        device: See `tasks.models.open_models`.
        target_prompt: For example "a face with purple hair".
        config: How.
        checkpoint_steps: Steps between checkpoints.
        on_progress: Told the steps that are done.

    Returns:
        The URL of the asset's folder.
    """
    networks = open_models(models, device)
    folder = mapper_folder(Folder(workspace), networks, target_prompt, config)
    if folder.exists(WEIGHTS):
        _mend_card(folder, networks, target_prompt, config)
        folder.remove(CHECKPOINT)
        return folder.url
    training = _Training(networks, config)
    log = training.resume(folder)
    text = networks.clip.embed_texts([target_prompt])
    losses = train_mapper(
        networks.generator,
        networks.clip,
        training.mapper,
        training.optimizer,
        training.batches(len(log)),
        text,
        config.loss_config(),
        networks.identity if config.id_lambda > 0 else None,
    )
    began = time.monotonic()
    for loss in losses:
        if not loss.total.isfinite():
            raise ConfigError(
                f"mapper of {target_prompt!r}: got a loss of {float(loss.total)} in step "
                f"{len(log)}, expected a number; the training diverged: give a lower learning_rate"
            )
        row = {"step": len(log), "loss": float(loss.total), "clip": float(loss.clip)}
        row |= {"identity": float(loss.identity), "l2": float(loss.l2)}
        log.append(row | {"seconds": time.monotonic() - began})
        began = time.monotonic()
        if on_progress is not None:
            on_progress(len(log))
        if len(log) % checkpoint_steps == 0:
            if folder.exists(WEIGHTS):
                # Another process was faster.
                break
            training.save(folder, log)
    if len(log) == config.steps:
        _finish(folder, training.mapper, log, networks, target_prompt, config)
    folder.remove(CHECKPOINT)
    return folder.url


class _Training:
    """A mapper with its optimizer, and the latents that each step learns from."""

    def __init__(self, networks: Models, config: MapperConfig) -> None:
        self._config = config
        generator = networks.generator
        # Weights are drawn on the processor, whose generator is the caller's afterwards.
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(config.seed)
            self.mapper = _build(config, generator).to(networks.device)
        self.optimizer = Ranger(self.mapper.parameters(), lr=config.learning_rate)
        self._in_style_space = config.mapper_type == "style_space"
        self._generator = generator
        random = torch.Generator().manual_seed(config.seed)
        z = torch.randn(config.num_latents, generator.config.z_dim, generator=random)
        with torch.no_grad():
            self._w = generator.mapping(z.to(generator.w_avg))
        self._sources: SourceIdentities | None = None
        if config.id_lambda > 0:
            self._sources = SourceIdentities(networks.identity, self._render)

    def batches(self, first: int) -> Iterator[Tensor | SourceBatch]:
        """Yield the latents of step `first` and on; those of a step depend on it and the seed."""
        config = self._config
        for step in range(first, config.steps):
            random = torch.Generator().manual_seed(config.seed * 1_000_003 + step)
            rows = torch.randint(config.num_latents, (config.batch_size,), generator=random)
            latents = self._latents(rows)
            if self._sources is None:
                yield latents
            else:
                yield SourceBatch(latents, self._sources.of(rows.tolist()))

    def _latents(self, rows: Tensor) -> Tensor:
        generator = self._generator
        w_plus = generator.w_to_w_plus(self._w[rows], self._config.truncation_psi)
        return generator.w_plus_to_s(w_plus) if self._in_style_space else w_plus

    def _render(self, row: int) -> Tensor:
        latents = self._latents(torch.tensor([row]))
        render = self._generator.synthesize if self._in_style_space else self._generator.forward
        return render(latents)

    def resume(self, folder: Folder) -> list[dict[str, Any]]:
        """Take over the checkpoint, if there is one, and return the log until there."""
        try:
            content = folder.read(CHECKPOINT)
        except FileNotFoundError:
            return []
        try:
            # An accelerator that it was saved on need not be here.
            saved = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        except (RuntimeError, pickle.UnpicklingError, EOFError) as error:
            raise ConfigError(
                f"{folder.url}/{CHECKPOINT}: got a damaged checkpoint ({error}), expected that of "
                "a training; remove it to train from the beginning"
            ) from error
        self.mapper.load_state_dict(saved["mapper"])
        self.optimizer.load_state_dict(saved["optimizer"])
        log: list[dict[str, Any]] = read_table(saved["log"].numpy().tobytes()).to_pylist()
        return log

    def save(self, folder: Folder, log: list[dict[str, Any]]) -> None:
        """Write a checkpoint: weights, optimizer and log in one file, so that they agree."""
        content = bytearray(table_bytes(_log_table(log)))
        sink = io.BytesIO()
        torch.save(
            {
                "mapper": self.mapper.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "log": torch.frombuffer(content, dtype=torch.uint8),
            },
            sink,
        )
        folder.write(CHECKPOINT, sink.getvalue())


def _build(config: MapperConfig, generator: Generator) -> Mapper:
    w_dim = generator.config.w_dim
    if config.mapper_type == "levels":
        return LevelsMapper(config.coarse, config.medium, config.fine, w_dim)
    if config.mapper_type == "single":
        return SingleMapper(w_dim)
    return WithoutToRGBStyleSpaceMapper(generator.layout)


def _finish(
    folder: Folder,
    mapper: Mapper,
    log: list[dict[str, Any]],
    networks: Models,
    target_prompt: str,
    config: MapperConfig,
) -> None:
    """Write the asset; the weights come last, and make it finished.

    Nothing that is there is replaced: of several trainings of a mapper the first is believed.
    """
    card = _card(networks, target_prompt, config)
    card |= {"code_version": CODE_VERSION, "final_loss": log[-1]}
    sink = io.BytesIO()
    save_safetensors(mapper, sink)
    files = {
        LOG: table_bytes(_log_table(log)),
        CARD: _card_bytes(card),
        WEIGHTS: sink.getvalue(),
    }
    for name, content in files.items():
        with suppress(FileExistsError):
            folder.create(name, content)


def _mend_card(folder: Folder, networks: Models, target_prompt: str, config: MapperConfig) -> None:
    """Write a card anew where it is gone or damaged: the address binds the mapper as it does."""
    try:
        is_known = bool(trained_for(folder))
    except MapperError:
        is_known = False
    if not is_known:
        folder.write(CARD, _card_bytes(_card(networks, target_prompt, config)))


def _card(networks: Models, target_prompt: str, config: MapperConfig) -> dict[str, Any]:
    return _binding(networks) | {"target_prompt": target_prompt, "config": asdict(config)}


def _card_bytes(card: dict[str, Any]) -> bytes:
    return json.dumps(card, indent=2, ensure_ascii=False).encode()


def _log_table(log: list[dict[str, Any]]) -> pa.Table:
    return pa.Table.from_pylist(log, MAPPER_LOG)


def _binding(models: Models) -> dict[str, Any]:
    roles: tuple[Role, ...] = ("generator", "clip", "identity")
    return models.marks(*filter(models.has, roles))
