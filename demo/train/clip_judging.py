"""What the demo CLIP is judged by: portraits that it names, and edits that it follows."""

import torch
from PIL import Image

from demo.portraits.sheet import contact_sheet
from demo.train.agreement import EDITS, Agreement, measure_agreement, render_edit_pairs
from demo.train.shards import PortraitShards, to_pictures
from demo.train.zero_shot import Accuracy, embed_pictures, zero_shot
from styleclip_ops.clip import ClipModel


class ClipJudge:
    """Judge CLIPs by the same portraits.

    Args:
        held_out: Portraits that nothing learns from.
        pairs: Pairs to render for each edit of EDITS.
        seed: Names the series of portraits edited.
        device: Where the models are.
    """

    def __init__(
        self, held_out: PortraitShards, pairs: int, seed: int, device: torch.device
    ) -> None:
        self._pictures = to_pictures(held_out.levels(torch.arange(len(held_out)))).to(device)
        self._parameters = held_out.parameters.to(device)
        self._pairs = render_edit_pairs(pairs, seed, held_out.size, device)

    def accuracies(self, clip: ClipModel, held_out: bool = True) -> dict[str, Accuracy]:
        """Return the accuracy of each attribute, see `demo.train.zero_shot.zero_shot`."""
        embeddings = embed_pictures(clip, self._pictures)
        return zero_shot(clip, embeddings, self._parameters, held_out)

    def agreements(self, clip: ClipModel) -> dict[str, Agreement]:
        """Return the agreement of each edit, see `demo.train.agreement.measure_agreement`."""
        return measure_agreement(clip, self._pairs)

    def figures(self, clip: ClipModel) -> dict[str, float]:
        """Return balanced accuracies, and the means of the agreements."""
        agreements = self.agreements(clip).values()
        return {name: found.balanced for name, found in self.accuracies(clip).items()} | {
            "direction_cosine": sum(a.cosine for a in agreements) / len(agreements),
            "direction_chosen": sum(a.chosen for a in agreements) / len(agreements),
        }

    @torch.no_grad()
    def sheet(self, clip: ClipModel) -> Image.Image:
        """Show the eight portraits nearest to each prompt of EDITS, a row for each."""
        similarity = clip.embed_texts([*EDITS]) @ embed_pictures(clip, self._pictures).T
        nearest = similarity.argsort(dim=1, descending=True)[:, :8]
        return contact_sheet(self._pictures[nearest.flatten()].cpu(), 8)
