import json
import os
import shutil
import struct
import subprocess
import sys
import zlib

import datasets
import numpy as np
import PIL.Image
import PIL.PngImagePlugin
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import distill_hub
from distill_hub.artifact import load, package
from distill_hub.artifact.find import find, read_description
from distill_hub.artifact.load import load_artifact, read_artifact
from distill_hub.artifact.package import encode_image, write_artifact
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


@pytest.mark.parametrize(("rows", "pixels"), [(True, True), (True, False), (False, True), (False, False)])
def test_what_is_asked_for_is_kept(artifact, make_rows, names, rows, pixels):
    made = list(make_rows())
    read = read_artifact(find(artifact), rows=rows, pixels=pixels)
    assert read.labels.dtype == np.int64 and read.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert read.soft_labels.dtype == np.float32
    assert np.array_equal(read.soft_labels, np.stack([row["soft_label"] for row in made]))
    if rows:
        assert [
            np.array_equal(np.asarray(image), row["image"]) for image, row in zip(read.dataset["image"], made, strict=True)
        ]
        assert read.dataset.features["label"].names == list(names)
    else:
        assert read.dataset is None
    if pixels:
        assert read.pixels.dtype == np.uint8 and read.pixels.flags.c_contiguous
        assert np.array_equal(read.pixels, np.stack([row["image"].transpose(2, 0, 1) for row in made]))
    else:
        assert read.pixels is None


def test_shards_and_row_groups_are_read_in_order(tmp_path, make_rows, build_manifest, names, monkeypatch):
    monkeypatch.setattr(package, "SHARD_BYTES", 40_000)  # two row groups
    made = list(make_rows(ipc=150))
    write_artifact(tmp_path, made, build_manifest(ipc=150), class_names=names)
    footers = [pq.read_metadata(shard) for shard in sorted(tmp_path.glob("data/*"))]
    assert [footer.num_row_groups for footer in footers] == [2, 2, 1]
    read = read_artifact(find(tmp_path), pixels=True)
    assert np.array_equal(read.pixels, np.stack([row["image"].transpose(2, 0, 1) for row in made]))
    assert list(read.dataset["seed"]) == [row["seed"] for row in made]
    assert np.array_equal(read.soft_labels, np.stack([row["soft_label"] for row in made]))


def test_every_image_is_decoded_once(artifact, monkeypatch):
    decoded = []
    finish = PIL.PngImagePlugin.PngImageFile.load_end
    monkeypatch.setattr(PIL.PngImagePlugin.PngImageFile, "load_end", lambda self: (decoded.append(self), finish(self)))
    read_artifact(find(artifact), pixels=True)
    assert len(decoded) == 6


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
        rows[5]["image"]["bytes"] = encode_image(pixels, "png")

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
            row["image"]["bytes"] = encode_image(image, "webp")

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


def test_one_image_of_another_size_is_refused(artifact):
    edit_rows(artifact, lambda rows: rows[4]["image"].update(bytes=encode_image(np.zeros((9, 9, 3), np.uint8), "png")))
    assert "it has (9, 9) pixels, the manifest says (8, 8)" in refusal(artifact)


def test_an_image_that_says_it_is_huge_is_not_decoded(artifact):
    header = struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0)
    chunks = [(b"IHDR", header), (b"IDAT", b"no pixels"), (b"IEND", b"")]
    parts = [struct.pack(">I", len(d)) + kind + d + struct.pack(">I", zlib.crc32(kind + d)) for kind, d in chunks]
    edit_rows(artifact, lambda rows: rows[0]["image"].update(bytes=b"\x89PNG\r\n\x1a\n" + b"".join(parts)))
    assert "it has (9000, 9000) pixels" in refusal(artifact)


@pytest.mark.parametrize("soft_label", [[float("nan"), 0.5, 0.5], [0.5, 0.5, None], [0.5, 0.4, 0.0], [1.5, -0.5, 0.0]])
def test_soft_labels_that_are_no_probabilities_are_refused(artifact, soft_label):
    edit_rows(artifact, lambda rows: rows[4].update(soft_label=soft_label))
    assert "soft_label rows must be finite, not negative, and sum to 1" in refusal(artifact)


def test_a_column_that_is_there_twice_is_refused(artifact):
    table = pq.read_table(artifact / SHARD)
    pq.write_table(table.append_column("label", table.column("label")), artifact / SHARD)
    assert "cannot be read" in refusal(artifact)


def test_shards_with_other_columns_are_refused(artifact):
    table = pq.read_table(artifact / SHARD)
    (artifact / SHARD).unlink()
    for place, part in enumerate([table.slice(0, 3), table.slice(3).append_column("note", pa.array(["x"] * 3))]):
        pq.write_table(part, artifact / f"data/train-0000{place}-of-00002.parquet")
    assert "do not have the same columns" in refusal(artifact)


@pytest.mark.parametrize(("limit", "most"), [(2**36, "268,435,456"), (1_000_000, "1,000,000")])
def test_a_set_that_would_fill_the_memory_is_refused_before_it_gets_any(artifact, monkeypatch, limit, most):
    edit_manifest(artifact, image_size=16_384)  # 6 * (3 * 16,384 ** 2 + 8 + 3 * 4) bytes, of a file of kilobytes
    monkeypatch.setattr(load, "MOST_DECODED_BYTES", limit)
    needs = f"take 4,831,838,328 bytes, at most {most} are read"
    with monkeypatch.context() as patched, pytest.raises(InputError, match=needs):
        patched.setattr(np, "empty", None)
        read_artifact(find(artifact), pixels=True)
    assert "(16384, 16384)" in refusal(artifact)  # without pixels, labels alone count


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


MEASURE = """
import sys
from pathlib import Path
from distill_hub.artifact.find import find
from distill_hub.artifact.load import read_artifact

def resident(field):
    return next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith(field))

small, large = (find(folder) for folder in sys.argv[1:])
read_artifact(small, rows=False, pixels=True)  # libraries take what they take once
Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
before = resident("VmRSS")
read = read_artifact(large, rows=False, pixels=True)
print(resident("VmHWM") - before, read.pixels.nbytes)
"""


def test_memory_holds_the_pixels_and_little_more(artifact, tmp_path, build_manifest, names):
    """A second copy would take 70 MB, in float32 281 MB, the encoded rows 71 MB; buffers of the libraries take 25 MB."""
    rng = np.random.default_rng(0)
    more = {"soft_label": [1.0, 0.0, 0.0], "confidence": 1.0, "seed": 0}
    noise = (rng.integers(0, 256, (64, 64, 3), dtype=np.uint8) for _ in range(5700))
    rows = ({"image": image, "label": row // 1900, **more} for row, image in enumerate(noise))
    write_artifact(tmp_path / "large", rows, build_manifest(ipc=1900, image_size=64), class_names=names)
    command = [sys.executable, "-c", MEASURE, str(artifact), str(tmp_path / "large")]
    grown, images = map(int, subprocess.run(command, capture_output=True, text=True, check=True).stdout.split())
    assert images == 5700 * 3 * 64 * 64
    assert images <= grown < images + 45_000_000
