"""The identity network (Deng et al., "ArcFace", CVPR 2019) of the renderer's persons."""

import copy
from dataclasses import dataclass, field
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from demo.train.averaging import WeightAverage
from demo.train.cards import write_card
from demo.train.curve import read_rows
from demo.train.descent import Schedule, descend
from demo.train.device import mixed_precision
from demo.train.files import replacing
from demo.train.margin import PersonCenters, margin_loss
from demo.train.networks import halve_weights
from demo.train.persons import NUM_IDENTITY_VALUES, identity_values
from demo.train.randomness import step_generator
from demo.train.recognition import FaceRecognizer
from demo.train.shards import PortraitShards, to_pictures
from demo.train.sheets import paired_sheet
from demo.train.trainee import KeptState, PortraitBatches
from demo.train.variation import Variation, blur_pictures, vary_pictures
from demo.train.verification import Pairs, roc_auc
from styleclip_ops.checkpoints import save_safetensors
from styleclip_ops.identity import ArcFace, ArcFaceConfig, face_crop
from styleclip_ops.ir_se import IrSeConfig

_TEXT = """An ArcFace (IR-SE, small) that tells the persons of `demo/portraits`: what the renderer
calls their identity, whatever their gender, age, hair, expression, accessories, pose and light.
It learned from renders, each of another person, by an additive margin loss whose centres are a
linear map of the person's geometry, through the same crop that `ArcFace.embed` makes.
The ROC AUC is over all pairs of held-out portraits; same-person pairs differ in everything but the
identity. dlib's network judged the same portraits, rendered at the size given, where it found the
face; the demo network saw them reduced to the size it learned from.
Made by `python -m demo.train identity`; weights are stored in half precision."""


# Held-out portraits that the sheet picks its pairs from.
_SHOWN = 96


def _small_arcface() -> ArcFaceConfig:
    return ArcFaceConfig(trunk=IrSeConfig((1, 1, 1, 1), (16, 32, 48, 64)))


@dataclass(frozen=True)
class IdentityConfig:
    """How to train the identity network.

    Attributes:
        architecture: The network.
        batch: Pictures in a step, each of another person.
        others: Further persons that a step tells them from.
        scale, margin: Of the additive margin loss (Wang et al., "CosFace", CVPR 2018).
        geometry: Weight of the error of the person's geometry, as read from the embedding: it
            guides the first steps, while all centres are still far away.
        variation: How far pictures are changed before they are seen.
        schedule: Learning rates of AdamW.
        weight_decay: That of AdamW.
        seed: Names the run: initial weights, batches, changes.
    """

    architecture: ArcFaceConfig = field(default_factory=_small_arcface)
    batch: int = 32
    others: int = 1024
    scale: float = 24.0
    margin: float = 0.15
    geometry: float = 10.0
    # The colour of the skin is a mark of the person.
    variation: Variation = field(default_factory=lambda: Variation(tint=0.02))
    schedule: Schedule = field(default_factory=lambda: Schedule(3e-3, hold=600))
    weight_decay: float = 0.05
    seed: int = 0


class HeldOutPersons:
    """Hold portraits of persons that nothing learns from, and all pairs of them.

    Args:
        shards: Portraits, person after person.
        portraits: Of each person.
        size: Side that the pictures are reduced to, that of the pictures to learn from.
        device: Where to keep them.
    """

    def __init__(
        self, shards: PortraitShards, portraits: int, size: int, device: torch.device
    ) -> None:
        rows = torch.arange(len(shards))
        self.large = to_pictures(shards.levels(rows))
        self.pictures = F.adaptive_avg_pool2d(self.large, size).to(device)
        self.persons = rows // portraits
        self.pairs = Pairs.of_persons(self.persons)


class IdentityTrainee(KeptState):
    """Train an ArcFace to embed portraits near the centre of their person.

    Args:
        config: How.
        shards: Portraits to learn from, each of another person.
        held_out: Persons to be judged by.
        device: Where to train.
    """

    figures = ("loss", "heldout_miss")

    def __init__(
        self,
        config: IdentityConfig,
        shards: PortraitShards,
        held_out: HeldOutPersons,
        device: torch.device,
    ) -> None:
        self.samples_per_step = config.batch
        self._config, self._device, self._held_out = config, device, held_out
        self._batches = PortraitBatches(shards, config.batch, config.seed, device)
        self._persons = identity_values(shards.parameters).to(device)
        torch.manual_seed(config.seed)
        self._model = ArcFace(config.architecture).to(device)
        _make_cheap(self._model)
        width = config.architecture.embedding_dim
        self._centers = PersonCenters(width).to(device)
        self._reader = nn.Linear(width, NUM_IDENTITY_VALUES).to(device)
        # A short memory: the batch norms' statistics are those of the latest weights.
        self._averaging = WeightAverage(self._model, decay=0.995)
        learning = nn.ModuleList([self._model, self._centers, self._reader]).parameters()
        trained = [parameter for parameter in learning if parameter.requires_grad]
        self._optimizer = torch.optim.AdamW(trained, weight_decay=config.weight_decay)
        super().__init__(
            model=self._model,
            centers=self._centers,
            reader=self._reader,
            average=self._averaging.average,
            optimizer=self._optimizer,
        )

    @property
    def network(self) -> ArcFace:
        """The averaged network."""
        return self._averaging.average

    def step(self, index: int) -> Tensor:
        """Learn from one batch."""
        config, draw = self._config, step_generator(self._config.seed + 1, index)
        parameters, pictures = self._batches.draw(index)
        rows = torch.randint(len(self._persons), (config.others,), generator=draw)
        others = self._persons[rows.to(self._device)]
        with mixed_precision(self._device):
            crops = face_crop(vary_pictures(pictures, config.variation, draw))
            crops = crops.contiguous(memory_format=torch.channels_last)
            embeddings = self._model(crops).float()
        values = identity_values(parameters)
        centers = self._centers(torch.cat([values, others]))
        cosines = F.normalize(embeddings, dim=1) @ centers.T
        loss = margin_loss(cosines, config.scale, config.margin)
        loss = loss + config.geometry * F.mse_loss(self._reader(embeddings), values)
        descend(self._optimizer, loss, config.schedule.at(index))
        self._averaging.update(self._model, index)
        return loss

    def evaluate(self) -> dict[str, float]:
        """Return what the ROC AUC for held-out persons lacks of 1, and the mean cosines."""
        pairs = self._held_out.pairs
        cosines = pairs.cosines(self.embed(self._held_out.pictures))
        return {
            "heldout_miss": 1 - roc_auc(cosines, pairs.same),
            "cosine_same": float(cosines[pairs.same].mean()),
            "cosine_different": float(cosines[~pairs.same].mean()),
        }

    @torch.no_grad()
    def embed(self, pictures: Tensor, batch: int = 64) -> Tensor:
        """Embed pictures [N, 3, R, R] in [-1, 1] some at a time: [N, E] on the processor."""
        parts = [self.network.embed(part).cpu() for part in torch.split(pictures, batch)]
        return torch.cat(parts)

    def draw_sheet(self) -> Image.Image:
        """Show the pairs most mistaken: one person least alike, then two persons most alike."""
        pictures = self._held_out.pictures[:_SHOWN]
        pairs = Pairs.of_persons(self._held_out.persons[:_SHOWN])
        cosines = pairs.cosines(self.embed(pictures))
        apart = cosines.where(pairs.same, 2).argsort()[:16]
        alike = cosines.where(~pairs.same, -2).argsort(descending=True)[:16]
        shown = torch.cat([apart, alike])
        return paired_sheet(pictures[pairs.first[shown]], pictures[pairs.second[shown]])


def _make_cheap(model: ArcFace) -> None:
    """Leave the layers at 112 and 56 px as they are, and dropout out.

    A pixel of the demo's pictures covers several of the crop's, so the first layers pass on colours
    whatever their weights; their gradients are half the cost. What dropout draws would depend on
    the session, and the changes of the pictures do its work.
    """
    model.input_layer.requires_grad_(False)
    model.body[0].requires_grad_(False)
    for part in model.output_layer.modules():
        if isinstance(part, nn.Dropout):
            part.p = 0


def export_identity(
    trainee: IdentityTrainee, held_out: HeldOutPersons, models: Path, runs: Path, data: str
) -> Path:
    """Write `identity.safetensors` and its card.

    Args:
        trainee: Holds the network.
        held_out: Persons to judge it and dlib's network by.
        models: Folder to write to.
        runs: Folder with the curve of the stage.
        data: What it learned from, in words.

    Returns:
        The file of weights.
    """
    path = models / "identity.safetensors"
    with replacing(path) as part:
        save_safetensors(halve_weights(copy.deepcopy(trainee.network).cpu()), part)
    row = read_rows(runs / "identity" / "curve.jsonl")[-1]
    facts: dict[str, object] = {
        "pictures": data,
        "held out": f"{len(held_out.persons)} portraits of {int(held_out.persons[-1]) + 1} persons",
        "parameters": sum(p.numel() for p in trainee.network.parameters()),
        "file": f"{path.stat().st_size / 1e6:.1f} MB",
        **{name: f"{row[name]:.6g}" for name in ("step", "samples", "minutes")},
        **compare_networks(trainee, held_out),
    }
    write_card(path.with_suffix(".md"), "Demo identity network", _TEXT, facts)
    return path


def compare_networks(trainee: IdentityTrainee, held_out: HeldOutPersons) -> dict[str, str]:
    """Measure the network on all held-out portraits, and beside dlib's where that finds the face.

    Returns:
        Figures in words, by their names.
    """
    embeddings, pairs = trainee.embed(held_out.pictures), held_out.pairs
    blurred = trainee.embed(blur_pictures(held_out.pictures))
    theirs = FaceRecognizer().recognize(held_out.large)
    shared = Pairs.of_persons(held_out.persons[theirs.found])
    cosines = pairs.cosines(embeddings)
    large, small = held_out.large.shape[-1], held_out.pictures.shape[-1]
    return {
        f"ROC AUC, {small} px": _auc(cosines, pairs),
        "ROC AUC, blurred": _auc(pairs.cosines(blurred), pairs),
        "mean cosine, same person": f"{float(cosines[pairs.same].mean()):.3f}",
        "mean cosine, different persons": f"{float(cosines[~pairs.same].mean()):.3f}",
        "faces that dlib found": f"{int(theirs.found.sum())} of {len(theirs.found)}",
        "ROC AUC where found": _auc(shared.cosines(embeddings[theirs.found]), shared),
        f"ROC AUC where found, dlib's network, {large} px": _auc(
            -shared.distances(theirs.embeddings[theirs.found]), shared
        ),
    }


def _auc(likeness: Tensor, pairs: Pairs) -> str:
    return f"{roc_auc(likeness, pairs.same):.4f}"
