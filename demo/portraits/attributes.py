"""The typed model of a portrait: discrete attributes, identity geometry, pose and colours."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Literal

Gender = Literal["woman", "man"]
Age = Literal["young", "adult", "old"]
HairColor = Literal["black", "brown", "blond", "red", "grey"]
HairStyle = Literal["bald", "short", "curly", "bob", "long"]
Expression = Literal["neutral", "smiling", "surprised", "sad", "angry"]
Glasses = Literal["none", "glasses", "sunglasses"]
Beard = Literal["none", "stubble", "full"]
Moustache = Literal["none", "moustache"]
Lipstick = Literal["none", "lipstick"]
Earrings = Literal["none", "earrings"]
Hat = Literal["none", "beanie", "brimmed"]

# Share of each option. Those of beard and moustache hold among men, that of lipstick among women.
RATES: Mapping[str, Mapping[str, float]] = {
    "gender": {"woman": 0.5, "man": 0.5},
    "age": {"young": 0.35, "adult": 0.37, "old": 0.28},
    "hair_color": {"black": 0.22, "brown": 0.22, "blond": 0.2, "red": 0.18, "grey": 0.18},
    "hair_style": {"bald": 0.12, "short": 0.28, "curly": 0.2, "bob": 0.18, "long": 0.22},
    "expression": {"neutral": 0.3, "smiling": 0.36, "surprised": 0.12, "sad": 0.11, "angry": 0.11},
    "glasses": {"none": 0.58, "glasses": 0.24, "sunglasses": 0.18},
    "beard": {"none": 0.5, "stubble": 0.18, "full": 0.32},
    "moustache": {"none": 0.65, "moustache": 0.35},
    "lipstick": {"none": 0.55, "lipstick": 0.45},
    "earrings": {"none": 0.72, "earrings": 0.28},
    "hat": {"none": 0.74, "beanie": 0.13, "brimmed": 0.13},
}

# attribute -> (gender that can show it): the other gender always has "none".
GENDERED: Mapping[str, Gender] = {"beard": "man", "moustache": "man", "lipstick": "woman"}

# attribute -> (attribute it leans on, correlation of their normal coordinates).
LEANINGS: Mapping[str, tuple[str, float]] = {
    "hair_color": ("age", 0.35),
    "moustache": ("beard", 0.4),
}


@dataclass(frozen=True)
class Identity:
    """Hold what makes a person; every value lies in [-1, 1], 0 is average, uniform when sampled."""

    face_width: float = 0.0
    face_length: float = 0.0
    jaw_width: float = 0.0
    chin_shape: float = 0.0
    cheek_fullness: float = 0.0
    eye_size: float = 0.0
    eye_roundness: float = 0.0
    eye_spacing: float = 0.0
    eye_tilt: float = 0.0
    iris_tone: float = 0.0
    brow_thickness: float = 0.0
    brow_height: float = 0.0
    brow_arch: float = 0.0
    nose_width: float = 0.0
    nose_length: float = 0.0
    nose_bridge: float = 0.0
    mouth_width: float = 0.0
    mouth_height: float = 0.0
    lip_fullness: float = 0.0
    ear_size: float = 0.0
    skin_tone: float = 0.0
    skin_warmth: float = 0.0
    freckles: float = 0.0
    hairline: float = 0.0

    def __post_init__(self) -> None:
        check_values(self)


@dataclass(frozen=True)
class Portrait:
    """Describe one portrait completely.

    Attributes:
        identity: the person; `dataclasses.replace(portrait, identity=other)` swaps the person.
        gender .. hat: discrete attributes, one option each (see RATES).
        yaw, pitch, roll: pose in [-1, 1] of the largest angle (see geometry.MAX_ANGLES);
            yaw > 0 turns towards the right of the picture, pitch > 0 looks down, roll > 0 leans
            the body against the head.
        light_azimuth, light_elevation: direction of the key light in [-1, 1].
        hair_shade, hair_volume, parting: look of the hair in [-1, 1].
        background_hue .. accessory_hue: colours in [-1, 1].
    """

    identity: Identity = field(default_factory=Identity)
    gender: Gender = "woman"
    age: Age = "adult"
    hair_color: HairColor = "brown"
    hair_style: HairStyle = "short"
    expression: Expression = "neutral"
    glasses: Glasses = "none"
    beard: Beard = "none"
    moustache: Moustache = "none"
    lipstick: Lipstick = "none"
    earrings: Earrings = "none"
    hat: Hat = "none"
    yaw: float = 0.0
    pitch: float = 0.0
    roll: float = 0.0
    light_azimuth: float = 0.0
    light_elevation: float = 0.0
    hair_shade: float = 0.0
    hair_volume: float = 0.0
    parting: float = 0.0
    background_hue: float = 0.0
    background_lightness: float = 0.0
    clothes_hue: float = 0.0
    clothes_lightness: float = 0.0
    accessory_hue: float = 0.0

    def __post_init__(self) -> None:
        check_values(self)
        for name, rates in RATES.items():
            if getattr(self, name) not in rates:
                raise ValueError(f"{name}: got {getattr(self, name)!r}, expected one of {[*rates]}")
        for name, gender in GENDERED.items():
            if self.gender != gender and getattr(self, name) != "none":
                raise ValueError(
                    f"{name}: got {getattr(self, name)!r}, expected 'none' for a {self.gender}"
                )


def value_names(model: type[Identity] | type[Portrait]) -> tuple[str, ...]:
    """Return the names of the continuous fields of `model`, in field order."""
    return tuple(f.name for f in fields(model) if f.type is float)


def check_values(model: Identity | Portrait) -> None:
    """Raise ValueError for a continuous field outside [-1, 1]."""
    for name in value_names(type(model)):
        value = getattr(model, name)
        if not -1.0 <= value <= 1.0:
            raise ValueError(f"{name}: got {value}, expected a number in [-1, 1]")
