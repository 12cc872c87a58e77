"""Bytes of what students are trained on, as they lie on the disk."""

import json
import struct

import numpy as np
import pyarrow.parquet as pq
import pytest

from distill_hub.artifact.package import write_artifact
from distill_hub.artifact.records import DataBytes, EvaluationRecord, Score
from distill_hub.artifact.sizes import data_bytes


def test_images_and_the_labels_that_students_learn(with_views):
    hard, soft, views, online = (data_bytes(with_views, labels) for labels in ("hard", "soft", "views", "teacher"))
    assert hard.images == soft.images == views.images == online.images
    (file,), (stored,) = ((with_views / kind).glob("*.parquet") for kind in ("data", "views"))
    # A file is its columns and its footer, whose length stands before the last four bytes, between four bytes each.
    content, group = file.read_bytes(), pq.read_metadata(file).row_group(0)
    (footer,) = struct.unpack("<I", content[-8:-4])
    others = [group.column(place) for place in range(4, 6)]
    assert [column.path_in_schema for column in others] == ["confidence", "seed"]
    assert soft.both + sum(column.total_compressed_size for column in others) == len(content) - footer - 12
    assert soft.labels - hard.labels == group.column(3).total_compressed_size > 0
    assert views.labels == len(stored.read_bytes()) and online.labels is online.both is None


def test_of_a_set_with_free_pixels_these_are_what_students_see(tmp_path, make_rows, build_manifest, names):
    noise = np.random.default_rng(0)
    rows = [{**row, "pixels": noise.integers(0, 2**14, (3, 8, 8), np.uint16).view(np.float16)} for row in make_rows()]
    manifest = build_manifest(free_pixels={"zca": None})
    write_artifact(tmp_path / "set", rows, manifest, class_names=names, free_side=8)
    (file,) = (tmp_path / "set" / "data").glob("*.parquet")
    pixels = pq.read_metadata(file).row_group(0).column(6)
    assert pixels.path_in_schema.startswith("pixels.")
    assert data_bytes(tmp_path / "set", "hard").images == pixels.total_compressed_size


def test_accuracy_per_megabyte(make_evaluation):
    score = Score(last=[0.4, 0.6], best=[0.6, 0.6], best_epoch=[1, 1])
    how = {"seeds": [0, 1], "score": score, "baselines": {}}

    def per_mb(size):
        return make_evaluation("0" * 64, **how, bytes=size).percent_per_mb

    assert per_mb(DataBytes(images=1_500_000, labels=500_000)) == pytest.approx(25)  # 50 % of 2 MB
    assert per_mb(DataBytes(images=1_500_000)) is per_mb(None) is None
    record = make_evaluation("0" * 64, bytes=DataBytes(images=7, labels=8))
    assert EvaluationRecord.model_validate_json(record.to_json()) == record
    old = {name: value for name, value in record.model_dump(mode="json").items() if name != "bytes"}
    assert EvaluationRecord.model_validate_json(json.dumps(old)).bytes is None
