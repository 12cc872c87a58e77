import errno
import os
import weakref
from types import SimpleNamespace

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import pytest

from distill_hub.artifact import package
from distill_hub.artifact.describe import set_license
from distill_hub.artifact.load import load_artifact
from distill_hub.artifact.manifest import ModelRecord
from distill_hub.artifact.package import write_artifact
from distill_hub.config import InputError


def contents(folder):
    """Every file of the artifact and its bytes; what a run keeps for itself does not count."""
    files = (p for p in folder.rglob("*") if p.is_file() and ".run" not in p.parts)
    return {str(p.relative_to(folder)): p.read_bytes() for p in files}


def test_rows_come_back_as_they_went_in(artifact, make_rows, names):
    dataset = load_artifact(artifact).dataset
    assert dataset.features["label"].names == list(names)
    assert len(dataset) == 6
    for read, written in zip(dataset, make_rows(), strict=True):
        assert read["image"].mode == "RGB"
        np.testing.assert_array_equal(np.asarray(read["image"]), written["image"])
        np.testing.assert_array_equal(np.float32(read["soft_label"]), written["soft_label"])
        assert (read["label"], read["seed"]) == (written["label"], written["seed"])
        assert read["confidence"] == pytest.approx(written["confidence"], abs=1e-7)


def test_same_rows_same_bytes(tmp_path, make_rows, build_manifest, names):
    for folder in ("a", "b"):
        write_artifact(tmp_path / folder, make_rows(), build_manifest(), class_names=names)
    assert contents(tmp_path / "a") == contents(tmp_path / "b")


def test_webp_and_png_are_the_same_content(tmp_path, make_rows, build_manifest, names):
    hashes = set()
    for image_format in ("png", "webp"):
        folder = tmp_path / image_format
        write_artifact(folder, make_rows(), build_manifest(), class_names=names, image_format=image_format)
        distilled = load_artifact(folder)  # decodes and recomputes the hash
        assert distilled.dataset[0]["image"].format == image_format.upper()
        hashes.add(distilled.manifest.content_sha256)
    assert len(hashes) == 1


def test_images_are_not_decoded_while_writing(tmp_path, make_rows, build_manifest, names, monkeypatch):
    monkeypatch.setattr(PIL.Image, "open", lambda *args: pytest.fail("an image was decoded"))
    write_artifact(tmp_path, make_rows(), build_manifest(), class_names=names)


def test_memory_holds_one_row_group(tmp_path, make_rows, build_manifest, names):
    alive, most = weakref.WeakSet(), 0

    class Pixels(np.ndarray):  # a set needs something that hashes
        __hash__ = object.__hash__

    def watched():
        nonlocal most
        for row in make_rows(ipc=150):
            image = row["image"].view(Pixels)
            alive.add(image)
            most = max(most, len(alive))
            yield {**row, "image": image}

    write_artifact(tmp_path, watched(), build_manifest(ipc=150), class_names=names)
    assert most <= 2 * package.ROW_GROUP_ROWS


def test_row_groups_and_shards(tmp_path, make_rows, build_manifest, names, monkeypatch):
    monkeypatch.setattr(package, "SHARD_BYTES", 40_000)
    write_artifact(tmp_path, make_rows(ipc=100), build_manifest(ipc=100), class_names=names)
    shards = sorted((tmp_path / "data").iterdir())
    assert [s.name for s in shards] == [f"train-0000{i}-of-0000{len(shards)}.parquet" for i in range(len(shards))]
    assert len(shards) > 1
    for shard in shards:
        info = pq.ParquetFile(shard).metadata
        assert all(info.row_group(i).num_rows <= 100 for i in range(info.num_row_groups))
    assert len(load_artifact(tmp_path).dataset) == 300

    monkeypatch.undo()
    write_artifact(tmp_path, make_rows(), build_manifest(), class_names=names)  # fewer shards: none may be left over
    assert [s.name for s in (tmp_path / "data").iterdir()] == ["train-00000-of-00001.parquet"]
    assert len(load_artifact(tmp_path).dataset) == 6


def full_disk(*args):
    raise OSError(errno.ENOSPC, "No space left on device")


def test_full_disk_while_rows_arrive_keeps_the_old_artifact(artifact, make_rows, build_manifest, names):
    before = contents(artifact)

    def rows():
        yield from list(make_rows(seed=1))[:4]
        full_disk()

    with pytest.raises(OSError, match="No space left"):
        write_artifact(artifact, rows(), build_manifest(), class_names=names)
    assert contents(artifact) == before
    load_artifact(artifact)


@pytest.mark.parametrize("call", [1, 2])  # the shard, then the staged manifest
def test_full_disk_at_any_fsync_keeps_the_old_artifact(artifact, make_rows, build_manifest, names, monkeypatch, call):
    before, real, calls = contents(artifact), os.fsync, []

    def fsync(handle):
        calls.append(handle)
        full_disk() if len(calls) == call else real(handle)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="No space left") as caught:
        write_artifact(artifact, make_rows(seed=1), build_manifest(), class_names=names)
    assert caught.value.errno == errno.ENOSPC  # what the recipes' one-line message looks for
    assert contents(artifact) == before
    monkeypatch.undo()
    write_artifact(artifact, make_rows(seed=1), build_manifest(), class_names=names)  # what was staged is no obstacle
    assert load_artifact(artifact).dataset[0]["seed"] == next(make_rows(seed=1))["seed"]


def test_stopped_between_data_and_manifest_is_refused_until_the_next_run(
    artifact, make_rows, build_manifest, names, monkeypatch
):
    real = os.replace

    def replace(source, target):
        if target == artifact / "manifest.json":
            raise KeyboardInterrupt
        real(source, target)

    monkeypatch.setattr(os, "replace", replace)
    with pytest.raises(KeyboardInterrupt):
        write_artifact(artifact, make_rows(seed=1), build_manifest(), class_names=names)
    monkeypatch.undo()
    with pytest.raises(InputError, match="altered"):
        load_artifact(artifact)
    write_artifact(artifact, make_rows(seed=1), build_manifest(), class_names=names)
    load_artifact(artifact)


@pytest.mark.parametrize(
    ("change", "fields", "message"),
    [
        ({"image": np.zeros((8, 8, 3))}, {}, "uint8"),
        ({"image": np.zeros((8, 8), np.uint8)}, {}, "uint8"),
        ({"image": np.zeros((8, 9, 3), np.uint8)}, {}, "8 pixels a side"),
        ({"soft_label": np.ones(2) / 2}, {}, "shape"),
        ({"soft_label": np.ones(3)}, {}, "sum to 1"),
        ({"label": 2}, {}, "images per class"),
        ({"label": 3}, {}, "labels must lie in"),
        ({}, {"ipc": 3}, "images per class"),
        ({}, {"image_size": 16}, "16 pixels a side"),
    ],
)
def test_rows_that_are_not_the_format_are_refused(artifact, make_rows, build_manifest, names, change, fields, message):
    before = contents(artifact)
    first, *rest = make_rows(seed=1)
    with pytest.raises(ValueError, match=message):
        write_artifact(artifact, [{**first, **change}, *rest], build_manifest(**fields), class_names=names)
    assert contents(artifact) == before


def test_manifest_with_other_classes_is_refused(tmp_path, make_rows, build_manifest, names):
    with pytest.raises(ValueError, match="the manifest has the classes"):
        write_artifact(tmp_path, make_rows(), build_manifest(), class_names=names[::-1])
    assert contents(tmp_path) == {}


@pytest.mark.parametrize(
    ("id", "own", "expected"),
    [
        (None, None, "cc-by-4.0"),
        ("fitted on digits", None, "cc-by-4.0"),
        ("org/generator", "mit", "mit"),
        ("org/generator", None, None),  # not the source's: what its images may be used for is not known
    ],
)
def test_the_licence_is_that_of_what_drew_the_images(id, own, expected):
    source = SimpleNamespace(license="cc-by-4.0")
    generator = id and ModelRecord(id=id, architecture="DiT", sha256="0" * 64, license=own)
    assert set_license(source, generator) == expected
