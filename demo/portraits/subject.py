"""The colours of portraits, and subjects: measures with colours, ready to be painted."""

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from demo.portraits.attributes import Portrait
from demo.portraits.geometry import Measures, measure
from demo.portraits.palette import HAIR, IRIS, LIPSTICK, SKIN, hsv, linear, ramp
from demo.portraits.sampling import value_column

_LIP_TINT = (0.88, 0.56, 0.56)
_OLD_BROWS = "#c4c3c1"
# Of the skin's light, at most.
_LIGHTEST_BROWS = 0.45


@dataclass(frozen=True)
class Colors:
    """Hold linear colours [N, 3, 1, 1], and [N, 1, 1] amounts of freckles."""

    skin: Tensor
    lips: Tensor
    hair: Tensor
    hair_light: Tensor
    brows: Tensor
    iris: Tensor
    clothes: Tensor
    trim: Tensor
    accessory: Tensor
    background: Tensor
    freckles: Tensor


@dataclass(frozen=True)
class Subject:
    """Hold N faces to paint."""

    measures: Measures
    colors: Colors

    def take(self, index: Sequence[int]) -> "Subject":
        """Return the subjects `index`."""
        chosen = list(index)
        colors = Colors(**{f.name: getattr(self.colors, f.name)[chosen] for f in fields(Colors)})
        return Subject(self.measures.take(chosen), colors)


def pose(portraits: Sequence[Portrait], device: torch.device | str = "cpu") -> Subject:
    """Return the subjects that `portraits` describe."""
    return Subject(measure(portraits, device), mix_colors(portraits, device))


def mix_colors(portraits: Sequence[Portrait], device: torch.device | str = "cpu") -> Colors:
    """Return the colours of `portraits`."""

    def value(name: str) -> Tensor:
        return value_column(portraits, name).to(device)

    warmth = torch.tensor([0.045, 0.0, -0.06], device=device)[None, :, None, None]
    skin = ramp(SKIN, value("skin_tone"))
    skin = skin * (1 + warmth * value("skin_warmth")[:, None, None, None])
    old = torch.tensor([p.age == "old" for p in portraits], device=device)
    old = old.to(skin)[:, None, None, None]
    skin = torch.lerp(skin, skin.mean(1, keepdim=True), 0.22 * old)
    shade = value("hair_shade")
    hair = _rows(
        [ramp(HAIR[p.hair_color], shade[i : i + 1]) for i, p in enumerate(portraits)], device
    )
    painted = torch.tensor([p.lipstick == "lipstick" for p in portraits], device=device)
    lips = torch.where(
        painted[:, None, None, None],
        ramp(LIPSTICK, value("accessory_hue")),
        skin * torch.tensor(_LIP_TINT, device=device)[None, :, None, None],
    )
    lightness = (value("background_lightness") + 1) / 2
    clothes = hsv(
        value("clothes_hue") / 2 + 0.5,
        torch.full_like(shade, 0.62),
        0.42 + 0.46 * (value("clothes_lightness") + 1) / 2,
    )
    brows = torch.lerp(hair * 0.62 + skin * 0.06, constant(_OLD_BROWS, skin), 0.8 * old)
    return Colors(
        skin=skin,
        lips=lips,
        hair=hair,
        hair_light=hair * 1.5 + 0.02,
        # Brows lighter than the skin would hide the eyes from dlib's detector.
        brows=torch.minimum(brows, _LIGHTEST_BROWS * skin),
        iris=ramp(IRIS, value("iris_tone")),
        clothes=clothes,
        trim=clothes * 0.55 + 0.16,
        accessory=hsv(
            value("accessory_hue") / 2 + 0.1, torch.full_like(shade, 0.66), 0.7 - 0.25 * shade.abs()
        ),
        background=hsv(
            value("background_hue") / 2, 0.42 - 0.24 * lightness, 0.55 + 0.4 * lightness
        ),
        freckles=((value("freckles") - 0.4) / 0.6).clamp(0, 1)[:, None, None],
    )


def constant(color: str, like: Tensor) -> Tensor:
    """Return one sRGB colour as a linear [1, 3, 1, 1] tensor on the device of `like`."""
    return torch.tensor(linear(color), device=like.device)[None, :, None, None]


def _rows(rows: list[Tensor], device: torch.device | str) -> Tensor:
    return torch.cat(rows) if rows else torch.zeros(0, 3, 1, 1, device=device)
