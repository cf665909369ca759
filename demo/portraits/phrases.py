"""The words of the captions: phrases for training and others held out for evaluation.

A fact is an attribute with its option, or with "not " before the option.
"""

from collections.abc import Mapping

Fact = tuple[str, str]
Phrases = tuple[str, ...]

NOUNS: Mapping[str, Phrases] = {
    "any": ("face", "face", "person", "human face"),
    "woman": ("woman", "lady", "woman's face"),
    "man": ("man", "guy", "man's face"),
}
HELD_OUT_NOUNS: Mapping[str, Phrases] = {
    "any": ("face", "person", "individual"),
    "woman": ("woman", "female person"),
    "man": ("man", "male person"),
}

OPENINGS: Phrases = ("", "", "", "a photo of ", "a portrait of ", "a picture of ")

# Words before the noun.
ADJECTIVES: Mapping[Fact, Phrases] = {
    ("age", "young"): ("young", "youthful"),
    ("age", "adult"): ("middle-aged", "adult"),
    ("age", "old"): ("old", "elderly", "aged"),
    ("expression", "neutral"): ("neutral", "calm", "serious"),
    ("expression", "smiling"): ("smiling", "happy", "laughing"),
    ("expression", "surprised"): ("surprised", "amazed"),
    ("expression", "sad"): ("sad", "unhappy"),
    ("expression", "angry"): ("angry", "furious"),
    ("hair_color", "black"): ("black-haired",),
    ("hair_color", "brown"): ("brown-haired",),
    ("hair_color", "blond"): ("blond", "blonde"),
    ("hair_color", "red"): ("red-haired", "ginger"),
    ("hair_color", "grey"): ("grey-haired", "gray-haired"),
    ("hair_style", "bald"): ("bald",),
    ("hair_style", "curly"): ("curly-haired",),
    ("hair_style", "long"): ("long-haired",),
    ("beard", "full"): ("bearded",),
}
HELD_OUT_ADJECTIVES: Mapping[Fact, Phrases] = {
    ("age", "young"): ("young-looking",),
    ("age", "adult"): ("mature",),
    ("age", "old"): ("very old", "elderly-looking"),
    ("expression", "neutral"): ("calm-looking",),
    ("expression", "smiling"): ("widely smiling", "happily smiling"),
    ("expression", "surprised"): ("surprised-looking",),
    ("expression", "sad"): ("sad-looking",),
    ("expression", "angry"): ("angry-looking",),
    ("hair_color", "blond"): ("blonde-haired",),
    ("hair_color", "red"): ("ginger-haired",),
    ("hair_style", "bald"): ("completely bald",),
    ("beard", "full"): ("heavily bearded",),
}

# Words after the noun.
DETAILS: Mapping[Fact, Phrases] = {
    ("expression", "neutral"): ("with a neutral expression",),
    ("expression", "smiling"): ("with a smile", "with a big smile", "who smiles", "showing teeth"),
    ("expression", "not smiling"): ("not smiling", "without a smile", "who does not smile"),
    ("expression", "surprised"): ("with an open mouth", "with a surprised look"),
    ("expression", "sad"): ("with a sad look", "who looks sad"),
    ("expression", "angry"): ("with an angry look", "who looks angry", "who frowns"),
    ("hair_color", "black"): ("with black hair", "with dark black hair"),
    ("hair_color", "brown"): ("with brown hair",),
    ("hair_color", "blond"): ("with blond hair", "with blonde hair", "with yellow hair"),
    ("hair_color", "red"): ("with red hair", "with ginger hair"),
    ("hair_color", "grey"): ("with grey hair", "with gray hair", "with white hair"),
    ("hair_style", "bald"): ("with a bald head", "without hair", "with no hair"),
    ("hair_style", "short"): ("with short hair", "with a short haircut"),
    ("hair_style", "curly"): ("with curly hair", "with an afro", "with curls"),
    ("hair_style", "bob"): ("with a bob haircut", "with a bob", "with bangs"),
    ("hair_style", "long"): ("with long hair", "with long straight hair"),
    ("glasses", "none"): ("without glasses", "with no glasses", "not wearing glasses"),
    ("glasses", "glasses"): ("with glasses", "wearing glasses", "with eyeglasses"),
    ("glasses", "sunglasses"): ("with sunglasses", "wearing sunglasses", "with dark glasses"),
    ("beard", "none"): ("without a beard", "with no beard"),
    ("beard", "stubble"): ("with stubble", "with a stubbly chin"),
    ("beard", "full"): ("with a beard", "with a full beard", "with a thick beard"),
    ("moustache", "none"): ("without a moustache", "with no mustache"),
    ("moustache", "moustache"): ("with a moustache", "with a mustache", "wearing a moustache"),
    ("lipstick", "none"): ("without lipstick", "without make-up"),
    ("lipstick", "lipstick"): (
        "with lipstick",
        "wearing lipstick",
        "with make-up",
        "with red lips",
    ),
    ("earrings", "none"): ("without earrings", "with no earrings"),
    ("earrings", "earrings"): ("with earrings", "wearing earrings", "with golden earrings"),
    ("hat", "none"): ("without a hat", "with no hat", "not wearing a hat"),
    ("hat", "beanie"): ("with a beanie", "wearing a beanie", "with a hat", "wearing a hat"),
    ("hat", "brimmed"): ("with a brimmed hat", "with a hat", "wearing a hat", "with a wide hat"),
}
HELD_OUT_DETAILS: Mapping[Fact, Phrases] = {
    ("expression", "neutral"): ("with a calm expression",),
    ("expression", "smiling"): ("showing a smile", "with a happy smile"),
    ("expression", "not smiling"): ("with no smile", "who is not smiling"),
    ("expression", "surprised"): ("who looks surprised",),
    ("expression", "sad"): ("with a sad expression",),
    ("expression", "angry"): ("with an angry expression",),
    ("hair_color", "black"): ("who has black hair", "with hair that is black"),
    ("hair_color", "brown"): ("who has brown hair", "with hair that is brown"),
    ("hair_color", "blond"): ("who has blond hair", "with hair that is blonde"),
    ("hair_color", "red"): ("who has red hair", "with hair that is red"),
    ("hair_color", "grey"): ("who has grey hair", "with hair that is gray"),
    ("hair_style", "bald"): ("who has no hair",),
    ("hair_style", "short"): ("who has short hair",),
    ("hair_style", "curly"): ("who has curly hair", "who has an afro"),
    ("hair_style", "bob"): ("who has a bob",),
    ("hair_style", "long"): ("who has long hair",),
    ("glasses", "none"): ("who wears no glasses", "who is without glasses"),
    ("glasses", "glasses"): ("who wears glasses", "with a pair of glasses"),
    ("glasses", "sunglasses"): ("who wears sunglasses", "with a pair of sunglasses"),
    ("beard", "none"): ("who has no beard",),
    ("beard", "stubble"): ("who has stubble",),
    ("beard", "full"): ("who has a beard", "wearing a beard"),
    ("moustache", "none"): ("who has no moustache",),
    ("moustache", "moustache"): ("who has a moustache",),
    ("lipstick", "none"): ("who wears no lipstick",),
    ("lipstick", "lipstick"): ("who wears lipstick", "with lipstick on the lips"),
    ("earrings", "none"): ("who wears no earrings",),
    ("earrings", "earrings"): ("who wears earrings", "with a pair of earrings"),
    ("hat", "none"): ("who wears no hat",),
    ("hat", "beanie"): ("who wears a beanie", "who wears a hat"),
    ("hat", "brimmed"): ("who wears a hat", "with a hat on the head"),
}
