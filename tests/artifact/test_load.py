import json
import os
import shutil

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import distill_hub
from distill_hub.artifact.load import find, load_artifact, read_description
from distill_hub.artifact.package import _encode
from distill_hub.config import InputError

SHARD = "data/train-00000-of-00001.parquet"


def refusal(folder):
    with pytest.raises(InputError) as caught:
        load_artifact(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def edit_manifest(folder, **fields):
    path = folder / "manifest.json"
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **fields}), encoding="utf-8")


def edit_rows(folder, edit):
    """Rewrite the shard with edited rows, leaving its time of change as it was."""
    path = folder / SHARD
    before = path.stat()
    table = pq.read_table(path)
    rows = table.to_pylist()
    edit(rows)
    pq.write_table(pa.Table.from_pylist(rows, schema=table.schema), path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_loads_everything(artifact, names):
    distilled = distill_hub.load_distilled(str(artifact))
    assert distilled.path == artifact
    assert distilled.manifest.class_names == list(names)
    assert list(distilled.dataset["label"]) == [0, 0, 1, 1, 2, 2]
    (record,) = distilled.evaluations
    assert record.content_sha256 == distilled.manifest.content_sha256


def test_missing_folder(tmp_path):
    assert "there is no such folder" in refusal(tmp_path / "nowhere")


def test_folder_without_manifest(tmp_path):
    assert "no manifest.json" in refusal(tmp_path)


def test_folder_without_data(artifact):
    shutil.rmtree(artifact / "data")
    assert "no data/train-*.parquet" in refusal(artifact)


def test_manifest_is_read_without_the_data(artifact):
    shutil.rmtree(artifact / "data")
    assert read_description(find(artifact))[0].ipc == 2


def test_newer_format(artifact):
    edit_manifest(artifact, format_version=2)
    assert "a newer one may read 2" in refusal(artifact)


def test_one_changed_pixel_is_refused_whatever_the_cache_of_datasets_knows(artifact, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.load_dataset(str(artifact), split="train")  # now a cache could answer for the old file
    pixels = np.asarray(load_artifact(artifact).dataset[5]["image"]).copy()
    pixels[3, 4, 1] ^= 1

    def flip(rows):
        rows[5]["image"]["bytes"] = _encode(pixels, "png")

    edit_rows(artifact, flip)
    assert "altered" in refusal(artifact)


@pytest.mark.parametrize("column", ["label", "soft_label"])
def test_swapped_labels_are_refused(artifact, column):
    def swap(rows):
        rows[0][column], rows[2][column] = rows[2][column], rows[0][column]

    edit_rows(artifact, swap)
    assert "altered" in refusal(artifact)


def test_other_encoding_of_the_same_pixels_is_accepted(artifact):
    pixels = [np.asarray(row["image"]) for row in load_artifact(artifact).dataset]

    def reencode(rows):
        for row, image in zip(rows, pixels, strict=True):
            row["image"]["bytes"] = _encode(image, "webp")

    edit_rows(artifact, reencode)
    assert load_artifact(artifact).dataset[0]["image"].format == "WEBP"


def test_dropped_row_is_refused(artifact):
    edit_rows(artifact, lambda rows: rows.pop())
    assert "the manifest says 6 images, its parquet files hold 5" in refusal(artifact)


def test_other_numbers_of_images_per_class_are_refused(artifact):
    edit_rows(artifact, lambda rows: rows[0].update(label=1))
    assert "2 images per class" in refusal(artifact)


def test_image_that_is_no_image_is_refused(artifact):
    edit_rows(artifact, lambda rows: rows[0]["image"].update(bytes=b"GIF89a, or not"))
    assert "every image must be PNG or WebP" in refusal(artifact)


def test_image_that_is_cut_short_is_refused(artifact):
    edit_rows(artifact, lambda rows: rows[0]["image"].update(bytes=rows[0]["image"]["bytes"][:40]))
    assert "an image cannot be used" in refusal(artifact)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"ipc": 3}, "the manifest says 9 images"),
        ({"image_size": 16}, "(16, 16)"),
        ({"content_sha256": "0" * 64}, "altered"),
        ({"classes": [{"name": n, "source_index": i} for i, n in enumerate("abc")]}, "column 'label'"),
        ({"classes": [{"name": "tench", "source_index": 0}], "ipc": 6}, "column 'label'"),
    ],
)
def test_manifest_that_contradicts_the_data_is_refused(artifact, fields, message):
    edit_manifest(artifact, **fields)
    assert message in refusal(artifact)


def test_truncated_parquet(artifact):
    path = artifact / SHARD
    path.write_bytes(path.read_bytes()[:-100])
    assert "cannot be read" in refusal(artifact)


def test_damaged_byte_anywhere_is_refused_or_changes_nothing(artifact):
    """Values carry checksums; some bytes of page headers and footer describe nothing that a reader needs."""
    path = artifact / SHARD
    good = path.read_bytes()
    values = load_artifact(artifact).dataset.data.to_pydict()
    refused = 0
    positions = range(4, len(good), 23)
    for position in positions:
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x10]) + good[position + 1 :])
        try:
            assert load_artifact(artifact).dataset.data.to_pydict() == values
        except InputError:  # any other error fails the test
            refused += 1
    assert refused > 0.5 * len(positions)


def test_evaluations_of_another_content_are_left_out(artifact, make_evaluation):
    other = make_evaluation("0" * 64, student="other")
    (artifact / "evaluations" / other.file_name).write_text(other.to_json())
    assert [record.student for record in load_artifact(artifact).evaluations] == ["convnet2"]


def test_damaged_evaluation_is_refused_by_name(artifact):
    (artifact / "evaluations" / "quick-x.json").write_text("{")
    assert "quick-x.json" in refusal(artifact)
