"""Manifests on any URL."""

import pytest

from manifests.errors import ManifestError
from tasks.manifest_files import check_manifest
from tasks.store.folders import Folder


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("parts", "got the folder {root}/parts, expected a CSV or Parquet file"),
        ("parts/*.csv", "got the pattern {root}/parts/*.csv, expected a CSV or Parquet file"),
        ("party", "got {root}/party, which is not there"),
    ],
)
def test_several_files_are_no_manifest(root, name, told):
    (Folder(root) / "parts").write("0.csv", b"image_id,target_prompt\nanna,old\n")
    with pytest.raises(ManifestError) as caught:
        next(check_manifest(f"{root}/{name}", ""))
    assert told.format(root=root) in str(caught.value)
