"""Sets to compare."""

import itertools

import PIL.Image
import PIL.PngImagePlugin
import pytest


@pytest.fixture
def make_set(tmp_path, build_manifest, make_evaluation):
    """Write what a comparison reads of a set: manifest, records, a preview, and 12,345 bytes that it must not read."""
    contents = itertools.count(1)

    def make(name, *records, preview=True, **fields):
        folder = tmp_path / name
        content = f"{next(contents):064x}"
        manifest = build_manifest(name=name, **fields)(content)
        for sub in ("data", "evaluations", "assets"):
            (folder / sub).mkdir(parents=True)
        (folder / "manifest.json").write_text(manifest.to_json())
        (folder / "data" / "train-00000-of-00001.parquet").write_bytes(b"x" * 12_345)
        for i, record in enumerate(records or [{}]):
            (folder / "evaluations" / f"{i}.json").write_text(make_evaluation(content, **record).to_json())
        if preview:
            note = PIL.PngImagePlugin.PngInfo()
            note.add_text("Comment", "said a stranger")
            PIL.Image.new("RGB", (1800, 90), "red").save(folder / "assets" / "preview.png", pnginfo=note)
        return str(folder)

    return make
