"""The demo CLIP (Radford et al., ICML 2021): portraits and their captions in one space."""

import math
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn
from transformers import CLIPConfig, CLIPModel

from demo.portraits.attributes import RATES
from demo.portraits.sampling import PARAMETER_SLICES
from demo.train.augmentation import FrameJitter
from demo.train.averaging import WeightAverage
from demo.train.balance import attribute_labels, option_weights
from demo.train.clip_judging import ClipJudge
from demo.train.descent import Schedule, descend
from demo.train.device import mixed_precision
from demo.train.randomness import step_generator
from demo.train.shards import PortraitShards
from demo.train.statements import NUM_OPTIONS, Captions, sample_captions
from demo.train.synthesis import ConditionedGenerator
from demo.train.trainee import KeptState, PortraitBatches
from demo.train.variation import Variation, vary_pictures
from demo.train.zero_shot import shows
from styleclip_ops.clip import ClipModel, clip_tokenizer

# CLIP limits the factor on the cosine to this (section 2.5).
_LARGEST_LOGIT_SCALE = math.log(100)
# Pictures that the rates of captions are counted in.
_RATE_SAMPLE = 4096
# Of the waves that tell the places of patches at first: the longest against the shortest, and
# their height, which makes them about as large as what untrained patches show.
_LONGEST_WAVE, _PLACE_SIZE = 20.0, 0.3


@dataclass(frozen=True)
class TowerSize:
    """The size of a transformer: its width, layers and heads."""

    width: int
    layers: int
    heads: int


@dataclass(frozen=True)
class ClipTraining:
    """How to build and train the CLIP.

    Attributes:
        image: The image tower.
        text: The text tower. The vocabulary has 49,408 rows of its width.
        patch: Side of a patch in pixels.
        embedding: Length of an embedding.
        batch: Pictures in a step.
        captions: Captions in a step; those of a picture may be among them or not.
        pool: Captions to draw from.
        pool_seed: Names the series of portraits that they describe.
        classify_first: Steps in which the image tower learns attributes, before any caption; 0 for
            a tower that knows them.
        classify: Weight of the attributes beside the captions.
        schedule: Learning rates of AdamW.
        weight_decay: That of matrices, but for tables of embeddings.
        variation: How the pictures are changed. They are moved by up to half a patch: else
            optimization finds latents that please the CLIP where its patches lie and nowhere else.
        drawn: Share of the pictures that the generator draws, where there is one.
        attack: The most that a value of every second render is then changed by against the CLIP,
            of a range of 2; 0 for no attack.
        latent_attack, latent_steps: The longest way that each w of the latent of a drawn picture
            goes against the CLIP, and in how many steps. Options of most attributes are 1 to 4
            apart (a smile 1.8, glasses 1.3), so that few pictures come to show another option.
        seed: Names the run: initial weights and batches.
    """

    image: TowerSize = TowerSize(128, 5, 4)
    text: TowerSize = TowerSize(64, 3, 4)
    patch: int = 8
    embedding: int = 128
    batch: int = 32
    captions: int = 128
    pool: int = 16_000
    pool_seed: int = 6
    classify_first: int = 1200
    classify: float = 0.5
    schedule: Schedule = field(default_factory=lambda: Schedule(1e-3, warmup=200, hold=4000))
    weight_decay: float = 0.05
    variation: Variation = field(
        default_factory=lambda: Variation(FrameJitter(0.06, (0.07, 0.07), 3))
    )
    drawn: float = 0.5
    attack: float = 0.06
    latent_attack: float = 1.0
    latent_steps: int = 3
    seed: int = 0


class ClipTrainee(KeptState):
    """Train a CLIP, first as a classifier of attributes, then on captions.

    Some pictures are changed against it (Goodfellow et al., ICLR 2015; a random start as in Wong et
    al., ICLR 2020), those that the generator draws by their latents, as edits do it. Edits follow
    the CLIP's gradient, and that of a CLIP which was never attacked leads to pictures that please
    it and show nothing.

    Args:
        config: How.
        shards: Portraits to learn from.
        judge: Gives the figures.
        device: Where to train.
        begin: The CLIP to begin with; a random one where None.
        drawer: Draws portraits from their parameters, as those that edits show.
    """

    figures = ("loss", *RATES, "direction_cosine", "direction_chosen")

    def __init__(
        self,
        config: ClipTraining,
        shards: PortraitShards,
        judge: ClipJudge,
        device: torch.device,
        begin: ClipModel | None = None,
        drawer: ConditionedGenerator | None = None,
    ) -> None:
        self.samples_per_step = config.batch
        self._config, self._judge, self._device = config, judge, device
        self._drawer = drawer
        self._batches = PortraitBatches(shards, config.batch, config.seed, device)
        self._captions = sample_captions(config.pool, config.pool_seed)
        self._rates = _truth_rates(self._captions, shards.parameters)
        torch.manual_seed(config.seed)
        self._clip = build_clip(config, shards.size).to(device)
        if begin is not None:
            self._clip.load_state_dict(begin.state_dict())
        self._classifier = nn.Linear(config.embedding, NUM_OPTIONS).to(device)
        self._weights = _all_option_weights(shards.parameters).to(device)
        self._averaging = WeightAverage(self._clip)
        self._optimizer = _optimizer([self._clip, self._classifier], config.weight_decay)
        super().__init__(
            model=self._clip,
            classifier=self._classifier,
            average=self._averaging.average,
            optimizer=self._optimizer,
        )

    @property
    def clip(self) -> ClipModel:
        """The averaged model."""
        return self._averaging.average

    def step(self, index: int) -> Tensor:
        """Learn from one batch."""
        config = self._config
        parameters, pictures = self._batches.draw(index)
        draw = step_generator(config.seed + 1, index)
        rows = torch.randint(len(self._captions), (config.captions,), generator=draw)
        drawn = 0
        if self._drawer is not None:
            drawn = int(config.batch * config.drawn)
            pictures[:drawn] = self._drawn(self._drawer, parameters[:drawn], rows, index, draw)
        pictures = vary_pictures(pictures, config.variation, draw)
        if config.attack:
            part = slice(drawn, None, 2)
            pictures[part] = self._attack(pictures[part], parameters[part], rows, index, draw)
        loss = self._loss(pictures, parameters, rows, index)
        descend(self._optimizer, loss, self._config.schedule.at(index))
        self._clip.model.logit_scale.data.clamp_(max=_LARGEST_LOGIT_SCALE)
        self._averaging.update(self._clip, index)
        return loss

    def evaluate(self) -> dict[str, float]:
        """Return balanced zero-shot accuracies, and mean agreement with text directions."""
        return self._judge.figures(self.clip)

    def draw_sheet(self) -> Image.Image:
        """Show the held-out portraits nearest to prompts, a row for each."""
        return self._judge.sheet(self.clip)

    def _drawn(
        self,
        drawer: ConditionedGenerator,
        parameters: Tensor,
        rows: Tensor,
        index: int,
        draw: torch.Generator,
    ) -> Tensor:
        """Draw portraits, their latents changed so that the loss grows, each by up to its bound."""
        config = self._config
        with torch.no_grad():
            w_plus = drawer.w_plus(parameters)
        bound = torch.rand(len(w_plus), 1, 1, generator=draw).to(w_plus) * config.latent_attack
        offset = torch.randn(w_plus.shape, generator=draw).to(w_plus)
        offset = bound * F.normalize(offset, dim=2) / 2
        for _ in range(config.latent_steps if config.latent_attack else 0):
            offset.requires_grad_()
            loss = self._loss(drawer.draw(w_plus + offset), parameters, rows, index)
            (slope,) = torch.autograd.grad(loss, offset)
            offset = offset.detach() + bound * F.normalize(slope, dim=2)
            offset = offset * (bound / offset.norm(dim=2, keepdim=True)).clamp(max=1)
        with torch.no_grad():
            return drawer.draw(w_plus + offset).clamp(-1, 1)

    def _attack(
        self,
        pictures: Tensor,
        parameters: Tensor,
        rows: Tensor,
        index: int,
        draw: torch.Generator,
    ) -> Tensor:
        """Change pictures so that the loss grows, each by up to its own random bound."""
        bound = torch.rand(len(pictures), 1, 1, 1, generator=draw).to(pictures)
        bound = bound * self._config.attack
        start = (torch.rand(pictures.shape, generator=draw).to(pictures) * 2 - 1) * bound
        changed = (pictures + start).requires_grad_()
        loss = self._loss(changed, parameters, rows, index)
        (slope,) = torch.autograd.grad(loss, changed)
        change = start + 1.25 * bound * slope.sign()
        return pictures + torch.maximum(torch.minimum(change, bound), -bound)

    def _loss(self, pictures: Tensor, parameters: Tensor, rows: Tensor, index: int) -> Tensor:
        with mixed_precision(self._device):
            images = self._clip.embed_images(pictures).float()
        loss = self._attribute_loss(images, parameters)
        if index >= self._config.classify_first:
            loss = loss * self._config.classify + self._caption_loss(images, parameters, rows)
        return loss

    def _attribute_loss(self, images: Tensor, parameters: Tensor) -> Tensor:
        """Cross-entropy of the options of all attributes, the rare ones weighed up."""
        # Unit vectors of many coordinates are small coordinates.
        logits = self._classifier(images * images.shape[1] ** 0.5)
        losses = []
        for name in RATES:
            columns = PARAMETER_SLICES[name]
            likelihoods = logits[:, columns].log_softmax(dim=1)
            shown = parameters[:, columns] * shows(name, parameters)[:, None]
            losses.append(-(shown * self._weights[columns] * likelihoods).sum(dim=1).mean())
        return torch.stack(losses).mean()

    def _caption_loss(self, images: Tensor, parameters: Tensor, rows: Tensor) -> Tensor:
        captions = self._captions.pick(rows)
        with mixed_precision(self._device):
            texts = self._clip.embed_texts([*captions.texts]).float()
        similarity = self._clip.logit_scale * images @ texts.T
        return truth_loss(similarity, captions.truth(parameters), self._rates[rows].to(images))


def truth_loss(similarity: Tensor, truth: Tensor, rates: Tensor) -> Tensor:
    """Compare scaled cosines with the truth of captions: CLIP's loss, for all that match.

    A caption is no negative of any picture that it is true of. The targets are those of many draws
    of a picture with one of its captions: of an image, captions in proportion to 1 / rate; of a
    caption, all its images alike. The best cosines are then log(truth / rate), to which
    independent statements add, so that texts and images move alike when a statement is added.

    Args:
        similarity: [N, C], cosines times the logit scale.
        truth: [N, C], 1 where caption c is true of image n, else 0.
        rates: [C], share of all pictures that each caption is true of.
    """
    to_texts = _soft_cross_entropy(similarity, truth / rates)
    to_images = _soft_cross_entropy(similarity.T, truth.T)
    return (to_texts + to_images) / 2


def build_clip(config: ClipTraining, image_size: int) -> ClipModel:
    """Build an untrained CLIP of the published architecture, with CLIP's own tokenizer."""
    tokenizer = clip_tokenizer()
    vocabulary = {
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.eos_token_id,
    }
    architecture = CLIPConfig(
        projection_dim=config.embedding,
        vision_config=_tower(config.image) | {"image_size": image_size, "patch_size": config.patch},
        text_config=_tower(config.text) | vocabulary,
    )
    model = CLIPModel(architecture)
    places = model.vision_model.embeddings.position_embedding.weight
    with torch.no_grad():
        places[1:] = place_patches(image_size // config.patch, config.image.width)
    return ClipModel(model, tokenizer)


def place_patches(side: int, width: int) -> Tensor:
    """Return a first position embedding of patches, [side * side, width], smooth in the place.

    The usual one is random and a tenth as large as what the patches show, so that a small tower
    long sees a heap of patches.
    """
    steps = torch.arange(width // 4) / (width // 4)
    angles = torch.arange(side)[:, None] * _LONGEST_WAVE**-steps
    waves = torch.cat([angles.sin(), angles.cos()], dim=1) * _PLACE_SIZE  # [side, width / 2]
    down, across = waves[:, None].expand(-1, side, -1), waves.expand(side, -1, -1)
    return torch.cat([down, across], dim=2).flatten(0, 1)


def _tower(size: TowerSize) -> dict[str, int | str]:
    return {
        "hidden_size": size.width,
        "intermediate_size": 4 * size.width,
        "num_hidden_layers": size.layers,
        "num_attention_heads": size.heads,
        "hidden_act": "quick_gelu",
    }


def _soft_cross_entropy(logits: Tensor, weights: Tensor) -> Tensor:
    """Cross-entropy of rows [N, C] with targets in proportion to `weights`, but for zero rows."""
    matched = weights.sum(dim=1) > 0
    targets = F.normalize(weights[matched], p=1, dim=1)
    return -(targets * logits[matched].log_softmax(dim=1)).sum() / max(int(matched.sum()), 1)


def _optimizer(modules: list[nn.Module], weight_decay: float) -> torch.optim.Optimizer:
    matrices: list[Tensor] = []
    others: list[Tensor] = []
    for module in modules:
        for name, parameter in module.named_parameters():
            is_matrix = parameter.ndim > 1 and "embedding" not in name
            (matrices if is_matrix else others).append(parameter)
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": weight_decay},
        {"params": others},
    ]
    return torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.0, fused=True)


def _all_option_weights(parameters: Tensor) -> Tensor:
    """Weigh all options [NUM_OPTIONS] so that each counts the same in its attribute."""
    labels = attribute_labels(parameters)
    return torch.cat([option_weights(labels[name], len(RATES[name])) for name in RATES])


def _truth_rates(captions: Captions, parameters: Tensor) -> Tensor:
    """Share of pictures [N, P] that each caption is true of, [C], at least one picture's."""
    sample = parameters[:_RATE_SAMPLE]
    parts = torch.split(torch.arange(len(captions)), 1000)
    rates = torch.cat([captions.pick(part).truth(sample).mean(dim=0) for part in parts])
    return rates.clamp_min(1 / len(sample))
