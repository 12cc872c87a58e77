"""Sets whose students see floats: the column comes back as it went in, and nothing else may stand there."""

import hashlib
import re

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import load_dataset
from pydantic import ValidationError

from distill_hub.artifact import package
from distill_hub.artifact.find import find
from distill_hub.artifact.load import load_artifact
from distill_hub.artifact.manifest import FreePixelsRecord, Manifest, ZcaRecord
from distill_hub.artifact.package import write_artifact
from distill_hub.config import InputError
from distill_hub.launching.reproduce import compare
from distill_hub.publishing.card import cards_folder, render_card

SHARD = "data/train-00000-of-00001.parquet"
ZCA = ZcaRecord(eps=0.1, images=600, sha256="3" * 64)


@pytest.fixture
def free_rows(make_rows):
    """Rows with free pixels, some beyond black and white, some too small for a half but as a subnormal."""

    def make(**how):
        rng = np.random.default_rng(1)
        for row in make_rows(**how):
            values = rng.normal(0.5, 2, (3, 8, 8)) * 10.0 ** rng.integers(-6, 3, (3, 8, 8))
            yield {**row, "pixels": values.astype(np.float16)}

    return make


@pytest.fixture
def free_set(tmp_path, free_rows, build_manifest, names):
    folder = tmp_path / "free"
    write_artifact(folder, free_rows(), build_manifest(free_pixels=FreePixelsRecord()), class_names=names, free_side=8)
    return folder


def refusal(folder):
    with pytest.raises(InputError) as caught:
        load_artifact(folder, pixels=True)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def rewrite(folder, edit):
    """Write the shard anew with other values in the column."""
    table = pq.read_table(folder / SHARD)
    place = table.schema.get_field_index("pixels")
    cells = edit(np.stack(table.column("pixels").to_numpy()).astype(np.float64))
    column = pa.array(list(cells), type=table.schema.field(place).type)
    pq.write_table(table.set_column(place, table.schema.field(place), column), folder / SHARD)


def test_every_bit_comes_back_from_several_shards(tmp_path, free_rows, build_manifest, names, monkeypatch):
    monkeypatch.setattr(package, "SHARD_BYTES", 100_000)
    made = list(free_rows(ipc=150))
    manifest = build_manifest(ipc=150, free_pixels=FreePixelsRecord(zca=ZCA))
    write_artifact(tmp_path, made, manifest, class_names=names, free_side=8)
    assert len(list(tmp_path.glob("data/*"))) > 1
    read = load_artifact(tmp_path, pixels=True)
    expected = np.stack([row["pixels"] for row in made])
    assert read.free_pixels.dtype == np.float16 and read.free_pixels.tobytes() == expected.tobytes()
    assert read.manifest.free_pixels.zca == ZCA
    assert np.array_equal(read.pixels, np.stack([row["image"].transpose(2, 0, 1) for row in made]))
    assert load_artifact(tmp_path).free_pixels is None  # not asked for


def test_load_dataset_reads_it_as_a_stream_with_the_card_that_comes_with_it(free_set, free_rows, tmp_path):
    manifest = Manifest.read(free_set / "manifest.json")
    card = render_card(manifest, (), location=str(free_set), files=find(free_set).files)
    (free_set / "README.md").write_text(card, encoding="utf-8")
    assert "**Students are trained on `pixels`.**" in card and "| `pixels` | 192 " in card
    how = {"split": "train", "streaming": True, "cache_dir": str(tmp_path / "cache")}
    for read, written in zip(load_dataset(str(free_set), **how), free_rows(), strict=True):
        assert np.array(read["pixels"], np.float16).tobytes() == written["pixels"].tobytes()


def test_the_lines_in_format_md_read_it(free_set, free_rows):
    text = (cards_folder() / "FORMAT.md").read_text(encoding="utf-8")
    lines = re.search(r"### Free pixels.*?```python\n(.*?)\n\n\ndef", text, re.DOTALL).group(1)
    exec(lines.replace("org/digits-ipc10-dm", str(free_set)), read := {})
    assert read["pixels"].tobytes() == np.stack([row["pixels"] for row in free_rows()]).tobytes()


def test_the_hash_covers_it_in_the_documented_order(free_set, free_rows):
    digest = hashlib.sha256()
    for row in free_rows():
        for part, kind in (((8, 8), "<i8"), (row["image"], "u1"), (row["label"], "<i8"), (row["soft_label"], "<f4")):
            digest.update(np.asarray(part, kind).tobytes())
        digest.update(row["pixels"].astype("<f2").tobytes())
    assert Manifest.read(free_set / "manifest.json").content_sha256 == digest.hexdigest()


def test_one_changed_value_is_refused(free_set):
    rewrite(free_set, lambda cells: cells)
    load_artifact(free_set)

    def change(cells):
        cells[4, 17] += 0.25
        return cells

    rewrite(free_set, change)
    assert "altered" in refusal(free_set)


def test_a_rebuild_says_how_far_its_floats_are_apart(free_set, free_rows, build_manifest, names, tmp_path):
    rows = list(free_rows())
    rows[3]["pixels"][1, 2, 3] = 5.0
    before = float(list(free_rows())[3]["pixels"][1, 2, 3])
    manifest = build_manifest(free_pixels=FreePixelsRecord())
    write_artifact(tmp_path / "rebuilt", rows, manifest, class_names=names, free_side=8)
    found = compare(find(free_set), tmp_path / "rebuilt").difference
    assert (found.images, found.soft_label, found.free_pixel) == (0, 0, abs(5 - before))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), None])
def test_what_is_no_number_is_refused(free_set, value):
    rewrite(free_set, lambda cells: [[*cell[:-1], value] for cell in cells])
    assert "pixels must be finite" in refusal(free_set)


def test_the_column_must_be_what_the_manifest_says(free_set, artifact):
    table = pq.read_table(free_set / SHARD)
    pq.write_table(table.drop_columns(["pixels"]), free_set / SHARD)
    assert "column 'pixels' is None" in refusal(free_set)
    (free_set / "manifest.json").write_text((artifact / "manifest.json").read_text(encoding="utf-8"), encoding="utf-8")
    pq.write_table(table, free_set / SHARD)
    assert "its manifest no free_pixels" in refusal(free_set)
    text = (artifact / "manifest.json").read_text(encoding="utf-8")
    (artifact / "manifest.json").write_text(text.replace('"seed": 0', '"free_pixels": {"zca": null}, "seed": 0', 1))
    assert "column 'pixels' is None" in refusal(artifact)


def test_tiles_are_not_of_free_pixels(build_manifest):
    with pytest.raises(ValidationError, match="tiles or free_pixels, not both"):
        Manifest.model_validate_json(
            build_manifest(tiles=2)("0" * 64).model_copy(update={"free_pixels": FreePixelsRecord()}).to_json()
        )


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pixels": np.zeros((3, 8, 8), np.float32)}, "finite float16"),
        ({"pixels": np.zeros((8, 8, 3), np.float16)}, "finite float16"),
        ({"pixels": np.full((3, 8, 8), np.inf, np.float16)}, "finite float16"),
        ({"pixels": None}, "either all rows have free pixels"),
    ],
)
def test_rows_that_are_not_so_are_not_written(tmp_path, free_rows, build_manifest, names, changed, message):
    rows = ({**row, **changed} for row in free_rows())
    with pytest.raises(ValueError, match=message):
        write_artifact(tmp_path, rows, build_manifest(free_pixels=FreePixelsRecord()), class_names=names, free_side=8)


def test_a_set_without_it_is_written_as_before(artifact, build_manifest, names, make_rows, free_rows, tmp_path):
    assert "free_pixels" not in (artifact / "manifest.json").read_text(encoding="utf-8")
    with pytest.raises(ValueError, match="either all rows"):
        write_artifact(tmp_path / "a", free_rows(), build_manifest(), class_names=names)
    with pytest.raises(ValueError, match="free pixels of side 8"):
        write_artifact(tmp_path / "b", make_rows(), build_manifest(free_pixels=FreePixelsRecord()), class_names=names)
