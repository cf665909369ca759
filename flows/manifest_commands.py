"""Commands about manifests."""

import time
from typing import TYPE_CHECKING

from flows.progress import say
from flows.summary import InputCheck, Summary
from manifests.instructions import DEFAULT_ALPHA, DEFAULT_NEUTRAL_PROMPT
from manifests.schemas import Method
from tasks.bundles import DEMO_MODELS
from tasks.limits import NetworkLimits
from tasks.manifest_files import (
    build_manifest,
    check_manifest,
    read_asked,
    usable_faces,
)

if TYPE_CHECKING:
    from tasks.models import Models

_SHOWN_ERRORS = 50
_DEFAULTS = ", ".join(f"{alpha:g} for {method}" for method, alpha in DEFAULT_ALPHA.items())


def build_edit_manifest(
    workspace: str,
    destination: str,
    *,
    prompts: str = "",
    target: list[str] | None = None,
    neutral: str = DEFAULT_NEUTRAL_PROMPT,
    method: Method = "global",
    alpha: list[float] | None = None,
    beta: float | None = None,
    num_channels: int | None = None,
) -> Summary:
    """Write a manifest of every aligned face with every prompt.

    Args:
        workspace: Folder or URL that holds all data.
        destination: Parquet file to write.
        prompts: CSV or Parquet of prompts, with the columns of a manifest but pair_id and image_id;
            a cell of alpha may hold several strengths, as in 2;4;6.
        target: Target prompts, instead of a table.
        neutral: What the photographs show.
        method: global, mapper or optimize.
        alpha: Strengths.
        beta: Disentanglement threshold, for the method global.
        num_channels: Style channels to keep instead, for the method global.
    """
    began = time.monotonic()
    settings = {
        "neutral_prompt": neutral,
        "method": method,
        "beta": beta,
        "num_channels": num_channels,
    }
    asked = read_asked(prompts, target or [], alpha or [], **settings)
    rows = build_manifest(usable_faces(workspace), asked, destination)
    return Summary("manifest", destination, {"rows": rows}, time.monotonic() - began)


def validate_edit_manifest(
    manifest: str, *, workspace: str = "", models: str = DEMO_MODELS
) -> Summary:
    """Check a manifest, and say what to do about every mistake.

    The exit code is 2 if it has some, as it is of `edit`.

    Args:
        manifest: CSV or Parquet, one row an edited image.
        workspace: Whose faces it must name; not checked where empty.
        models: Bundle of weights that are to do it: the URL of its JSON file, or `demo`.
    """
    began = time.monotonic()
    sound, mistakes, default_alphas, wrong, told = 0, 0, 0, set[int](), list[str]()

    def open_networks() -> "Models":
        # Takes seconds, which rows that all networks can do need not wait for.
        from tasks.models import open_models

        return open_models(models, "cpu")

    limits = NetworkLimits(open_networks)
    for checked in check_manifest(manifest, workspace, limits):
        for error in checked.errors[: max(_SHOWN_ERRORS - mistakes, 0)]:
            told.append(str(error))
            say(told[-1])
        sound += len(checked.edits)
        mistakes += len(checked.errors)
        default_alphas += checked.default_alphas
        wrong.update(error.row for error in checked.errors)
    if mistakes > _SHOWN_ERRORS:
        say(f"... and {mistakes - _SHOWN_ERRORS:,} more")
    counts = {"sound": sound, "failed": len(wrong)}
    facts = {"mistakes": mistakes, "told": told, "default_alphas": default_alphas}
    asides = [f"{mistakes} mistakes"] if mistakes > len(wrong) else []
    asides += [f"{default_alphas:,} with the default alpha, {_DEFAULTS}"] if default_alphas else []
    aside = "; ".join(asides)
    return InputCheck("manifest", manifest, counts, time.monotonic() - began, facts, aside=aside)
