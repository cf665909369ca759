"""Bundles: where the weights of the networks are, without the networks."""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Literal, get_args

from styleclip_ops.errors import StyleClipError
from tasks.store.folders import nearest, split_url

# Names the bundle that comes with the product.
DEMO_MODELS = "demo"
DEMO_LIMITS = "know rendered portraits of 64 px and no photographs"

Role = Literal["generator", "encoder", "clip", "identity", "judge", "alexnet", "lpips"]
ROLES: tuple[Role, ...] = get_args(Role)


def fingerprint_name(role: str) -> str:
    """Return how stored data call the fingerprint of a network."""
    return f"{role}_fingerprint"


class BundleError(StyleClipError, ValueError):
    """A bundle of weights is incomplete, or a file in it is not what it says."""


@dataclass(frozen=True)
class Weights:
    """Where the weights of one network are.

    Attributes:
        uri: A file, or the folder of a Hugging Face CLIP; relative to the bundle or absolute.
        sha256: Expected digest of the file, 64 hexadecimal digits; not checked where empty.
        licence: Under which they may be used.
        source: Where their authors published them.
    """

    uri: str
    sha256: str = ""
    licence: str = ""
    source: str = ""

    def __post_init__(self) -> None:
        if self.sha256 and not re.fullmatch("[0-9a-f]{64}", self.sha256.strip(), re.I):
            raise BundleError(f"sha256: got {self.sha256!r}, expected 64 hexadecimal digits")


@dataclass(frozen=True)
class Bundle:
    """The weights of a pipeline, by role; `judge`, `alexnet` and `lpips` only judge.

    Attributes:
        url: Of the JSON file.
        weights: By role.
    """

    url: str
    weights: Mapping[Role, Weights]

    def require(self, *roles: Role) -> None:
        """Refuse a bundle that lacks networks.

        Raises:
            BundleError: It lacks some; all of them are named.
        """
        if missing := [role for role in roles if role not in self.weights]:
            named = ", ".join(map(repr, missing))
            commands = " and ".join(
                f"`styleclip weights add {role} URI --models {self.url}`" for role in missing
            )
            raise BundleError(
                f"{self.url}: got weights for {[*self.weights]}, expected also {named}; add them "
                f"with {commands}"
            )

    def locate(self, role: Role) -> str:
        """Return the URL of a network's weights.

        Raises:
            BundleError: The bundle has no such network, or it is in a store and its relative place
                leads out of the bundle's folder.
        """
        self.require(role)
        uri = self.weights[role].uri
        if "://" in uri or uri.startswith("/"):
            return uri
        folder, _ = split_url(self.url)
        if folder.is_local:
            # Beside the bundle may be where it was made; a whole path leads anywhere as well.
            beside, name = split_url(f"{folder.url}/{uri}")
            return beside.url_of(name)
        if ".." in uri.split("/"):
            raise BundleError(
                f"{role}: got the URI {uri}, expected one inside {folder.url}, or a whole URL"
            )
        return folder.url_of(uri)


def bundle_url(models: str) -> str:
    """Return a bundle's name or URL as every folder understands it."""
    if models == DEMO_MODELS:
        return models
    folder, name = split_url(models)
    return folder.url_of(name)


def read_bundle(url: str) -> Bundle:
    """Read a bundle.

    Raises:
        BundleError: There is no such file, or it is no bundle.
    """
    if url == DEMO_MODELS:
        url = str(resources.files("demo") / "models" / "bundle.json")
    folder, name = split_url(url)
    try:
        values = json.loads(folder.read(name))
        for role, entry in values.items():
            if not all(isinstance(value, str) for value in entry.values()):
                raise ValueError(f"{role}: got {entry}, expected texts")
        weights = {role: Weights(**entry) for role, entry in values.items()}
    except FileNotFoundError:
        raise BundleError(
            f"models: got {url}, which is not there{nearest(url)}, expected the JSON file of a "
            f"bundle; `styleclip weights add generator FILE --models {url}` begins one, and `demo` "
            "is the one that comes with the product"
        ) from None
    except (ValueError, TypeError, AttributeError) as error:
        raise BundleError(f"{url}: got no bundle of weights ({error}), expected JSON") from error
    unknown = sorted(set(weights) - set(ROLES))
    if unknown:
        raise BundleError(f"{url}: got roles {unknown}, expected some of {[*ROLES]}")
    return Bundle(url, weights)


def write_bundle(bundle: Bundle) -> None:
    """Write a bundle to its URL."""
    folder, name = split_url(bundle.url)
    values = {role: asdict(entry) for role, entry in bundle.weights.items()}
    folder.write(name, (json.dumps(values, indent=2) + "\n").encode())


def describe_bundle(models: str) -> list[dict[str, str]]:
    """Return role, URL, licence and source of every network of a bundle."""
    bundle = read_bundle(models)
    return [
        {
            "role": role,
            "url": bundle.locate(role),
            "licence": entry.licence,
            "source": entry.source,
            "sha256": entry.sha256,
        }
        for role, entry in bundle.weights.items()
    ]
