"""Two sets that were checked in are read by FORMAT.md's code, without this package, and by this package: all the same."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from distill_hub.artifact.find import find
from distill_hub.artifact.load import load_artifact
from distill_hub.artifact.manifest import Manifest
from distill_hub.augmentation.augment import augment
from distill_hub.publishing.card import cards_folder
from distill_hub.views.files import open_views
from distill_hub.views.replay import probabilities, view_draws

STORED = Path(__file__).parent / "stored"
TEMPERATURE = 4
NAMES = ("full", "kept")


@pytest.fixture(scope="module")
def expected():
    """Pixels, views and targets in float64, by the loops of `stored/make.py`."""
    return np.load(STORED / "expected.npz")


@pytest.fixture
def format_1(tmp_path):
    """The set `full` as format 1 had it."""
    folder = shutil.copytree(STORED / "full", tmp_path / "full")
    (shard,) = (folder / "views").iterdir()
    file = pq.ParquetFile(shard)
    names = [{"image_index": "image", "partner_index": "partner"}.get(name, name) for name in file.schema_arrow.names]
    groups = [file.read_row_group(group).rename_columns(names) for group in range(file.num_row_groups)]
    with pq.ParquetWriter(shard, groups[0].schema) as writer:
        for group in groups:
            writer.write_table(group)
    manifest = json.loads((folder / "manifest.json").read_text())
    for newer in ("format", "label_share", "top_k"):
        del manifest["views"][newer]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    card = (folder / "README.md").read_text().replace("image_index", "image").replace("partner_index", "partner")
    (folder / "README.md").write_text(card)
    return folder


def test_format_md_reads_rows_without_this_package(python, expected, format_1, tmp_path):
    text = (cards_folder() / "FORMAT.md").read_text(encoding="utf-8")
    digest, batches = [code for code in re.findall(r"```python\n(.*?)```", text, re.DOTALL) if '"views"' in code]
    code = "import sys; sys.modules['distill_hub'] = None\nfound = {}\n"
    for name, folder in {**{name: STORED / name for name in NAMES}, "format_1": format_1}.items():
        code += digest.replace('"org/digits-ipc10-cao2"', repr(str(folder)))
        code += batches.replace('"digits-ipc10-cao2"', repr(str(folder)))
        code += f"views, targets = zip(*(batch(*one, temperature={TEMPERATURE}) for one in bounds))\n"
        code += f"found['{name}_views'] = np.concatenate(views); found['{name}_targets'] = np.concatenate(targets)\n"
        code += f"found['{name}_images'] = images; print(bounds)\n"
    printed = python(f"{code}np.savez({str(tmp_path / 'found.npz')!r}, **found)\n").splitlines()
    hashes = [Manifest.read(STORED / name / "manifest.json").views.sha256 for name in NAMES]
    bounds = ["[(0, 4), (4, 6), (6, 10), (10, 12)]", "[(0, 2), (2, 4), (4, 6), (6, 8)]"]
    assert printed == [hashes[0], bounds[0], hashes[1], bounds[1], hashes[0], bounds[0]]
    found = np.load(tmp_path / "found.npz")
    assert set(expected) < set(found) and len(found) == 9
    for name, values in found.items():
        name = name.replace("format_1", "full")
        if name.endswith("images"):
            np.testing.assert_array_equal(values, expected[name] / 255)
        else:  # sums of at most 64 products, in another order
            np.testing.assert_allclose(values, expected[name], rtol=0, atol=1e-12, err_msg=name)


@pytest.mark.parametrize("name", NAMES)
def test_this_package_sees_the_same_batches(name, expected):
    artifact = load_artifact(STORED / name)
    views = open_views(find(STORED / name), artifact.manifest)
    images = torch.from_numpy(expected[f"{name}_images"]).permute(0, 3, 1, 2)
    size, row = views.record.image_size, 0
    for index in range(views.count):
        batch = views.batch(index)
        draws = view_draws(batch)
        seen = augment(images[draws["order"]], draws, (0.0,) * 3, (1.0,) * 3, size).permute(0, 2, 3, 1).numpy()
        rows = slice(row, row := row + len(seen))
        # Places and weights in float32: a pixel moves by 1e-6 of the side at most.
        np.testing.assert_allclose(seen, expected[f"{name}_views"][rows], rtol=0, atol=1e-5)
        targets = probabilities(draws["logits"], draws.get("class_index"), 3, TEMPERATURE)
        np.testing.assert_allclose(targets, expected[f"{name}_targets"][rows], rtol=0, atol=1e-6)
    assert row == views.record.rows == len(expected[f"{name}_views"])


def test_the_sets_hold_what_is_worth_reading():
    """Whole pixels and others, mirrored and not, boxes, and a pruned set of the largest logits, shrunk."""
    full, kept = (open_views(find(STORED / name), load_artifact(STORED / name).manifest) for name in NAMES)
    assert (full.record.label_share, full.record.top_k, full.count) == (1, None, 4)
    assert (kept.record.label_share, kept.record.top_k, kept.count) == (0.5, 2, 4) and kept.record.image_size < 8
    for views in (full, kept):
        batches = [views.batch(index) for index in range(views.count)]
        crop, flip, share = (np.concatenate([batch[name] for batch in batches]) for name in ("crop", "flip", "share"))
        whole = (np.round(8 * crop) == 8 * crop).all(1)
        assert 0 < whole.mean() < 1 and 0 < flip.mean() < 1 and share.min() < 0.8
