"""Where what rows name is, in workspaces that stayed and that were moved."""

import pytest

from tasks.places import places_of
from tasks.store.folders import Folder


def places(now: str, *formerly: str):
    return places_of(Folder(f"{now}/runs/r"), {"workspace": formerly[0]}, formerly)


@pytest.mark.parametrize(
    "formerly", ["/data/ws", "/data/new", "/data/new/ws", "/data", "s3://b/ws"]
)
def test_what_a_workspace_holds_is_found_wherever_it_was(formerly):
    now = places("/data/new", formerly)
    for kept in (
        "mappers/a-hat/mapper.safetensors",
        "latents/0123",
        "runs/r/images/anna/hat.png",
        "runs/r/images/crops/hat.png",
    ):
        assert now.find(f"{formerly}/{kept}") == f"/data/new/{kept}"
        assert now.find(f"/data/new/{kept}") == f"/data/new/{kept}"
    for kept in ("runs/r/images/crops/hat.png", "runs/r/images/shard-0.tar#anna.png"):
        # Also where the run was continued in a third place, of which nothing is written down.
        for place in (formerly, "/data/new", "/data/third"):
            assert now.find_edit(f"{place}/{kept}") == f"/data/new/{kept}"
    for kept in ("crops/anna.png", "crops/crops.png", "inversions/0123/crops.png"):
        for place in (formerly, "/data/new", "/data/crops/third"):
            assert now.find_face(f"{place}/{kept}") == f"/data/new/{kept}"


def test_what_is_elsewhere_is_not_found():
    now = places("/data/ws", "/data/ws")
    for uri in ("s3://assets/imports/hat", "/data/crops/hat", "/data/ws/../x.png", "", None):
        assert now.find(uri) is None
    assert now.find_edit("/data/runs/other/images/anna/hat.png") is None
    assert now.find_face("/data/anna.png") is None
