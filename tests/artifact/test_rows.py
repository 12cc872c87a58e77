"""Rows that all processes of a run have made are those that one would have written alone."""

import io

import numpy as np
import PIL.Image
import pytest
import torch

from distill_hub.artifact.package import write_artifact
from distill_hub.artifact.rows import encode_images, images_of, rows
from distill_hub.running.run import Run

IPC, SIDE = 45, 12  # 135 images: a row group and a part of one


@pytest.fixture
def run(tmp_path):
    return Run(tmp_path / "run", {})


@pytest.fixture
def stage(run):
    draws = torch.Generator().manual_seed(0)
    made = {
        "images": torch.randint(256, (3 * IPC, 3, SIDE, SIDE), dtype=torch.uint8, generator=draws),
        "logits": torch.randn(3 * IPC, 3, generator=draws),
        "seeds": torch.arange(3 * IPC),
    }
    made["images"][::2] //= 64  # of which fewer bytes are needed
    return run.map("select", range(3 * IPC), lambda own: {k: v[list(own)] for k, v in made.items()}, chunk_size=7)


@pytest.mark.parametrize("image_format", ["png", "webp"])
def test_the_files_are_the_same_to_the_byte(run, stage, build_manifest, names, tmp_path, image_format):
    images, labels = images_of(run, stage), [label for label in range(3) for _ in range(IPC)]
    assert images.equal(stage.rows(0, 3 * IPC, "images")["images"])
    encoded = encode_images(run, images, image_format, {"set": stage.sha256})
    made, how = list(rows(stage, images, encoded, labels)), {"class_names": names, "image_format": image_format}
    for row, image in zip(made, images, strict=True):
        read = PIL.Image.open(io.BytesIO(row["encoded"]))
        assert read.format == image_format.upper() and np.array_equal(np.asarray(read), image.permute(1, 2, 0))
    manifest = build_manifest(ipc=IPC, image_size=SIDE)
    write_artifact(tmp_path / "together", made, manifest, **how)
    for row in made:
        del row["encoded"]
    write_artifact(tmp_path / "alone", made, manifest, **how)
    one, other = (
        {file.relative_to(folder): file.read_bytes() for file in folder.rglob("*.*") if file.is_file()}
        for folder in (tmp_path / "together", tmp_path / "alone")
    )
    assert len(one) == 2 and one == other


def test_what_serves_the_run_alone_is_gone_after_it(run, stage, tmp_path):
    encode_images(run, images_of(run, stage), "png", {"set": stage.sha256})
    state = tmp_path / "run" / ".run"
    assert {"images", "encode images"} < {path.name for path in state.iterdir()}
    run.end()
    assert sorted(path.name for path in state.iterdir()) == ["config.json", "select"]
