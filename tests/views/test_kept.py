"""What is kept of stored views: the first batches, the largest logits; and format 1, which kept all, is still read."""

import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from distill_hub.artifact.find import find
from distill_hub.artifact.manifest import ClassRecord, Manifest, ModelRecord, ViewsExtent
from distill_hub.classifiers import Classifier
from distill_hub.commands.info import run as show_info
from distill_hub.config import InputError
from distill_hub.evaluation import views as drawing
from distill_hub.evaluation.views import check_top_k, draw_views, offer, predicted_bytes, store_views
from distill_hub.networks.build import build
from distill_hub.options.commands import InfoConfig
from distill_hub.publishing.card import render_card
from distill_hub.running.run import Run
from distill_hub.views.files import open_views, write_views

SHARD = "views/train-00000-of-00001.parquet"
RECORD = ModelRecord(id="a teacher", architecture="convnet-1", sha256="1" * 64)


def manifest_of(folder):
    return Manifest.read(folder / "manifest.json")


def opened(folder):
    return open_views(find(folder), manifest_of(folder))


def read(folder):
    views = opened(folder)
    return [views.batch(index) for index in range(views.count)]


def same(found, expected):
    assert len(found) == len(expected)
    for one, other in zip(found, expected, strict=True):
        assert list(one) == list(other)
        for name in one:
            np.testing.assert_array_equal(one[name], other[name], err_msg=name)


def largest(batch, k):
    """Keep k logits of float32 or float16 rows, by a loop over rows."""
    chosen = [sorted(range(len(row)), key=lambda c: (-row[c], c))[:k] for row in np.float16(batch["logits"])]
    logits = np.stack([row[own] for row, own in zip(batch["logits"], chosen, strict=True)])
    head = {name: values for name, values in batch.items() if name != "logits"}
    return {**head, "class_index": np.array(chosen, dtype=np.uint16), "logits": logits}


@pytest.mark.parametrize(
    ("share", "epochs", "images", "batch_size", "batches"),
    [
        (0.025, 300, 10_000, 128, 585),  # LPLD on ImageNet-1K, IPC 10: int(300 * 78 * 0.025)
        (0.29, 100, 10, 10, 29),  # 28.999999999999996 in floats
        (0.57, 100, 10, 10, 57),  # 56.99999999999999
        (0.001, 3, 8, 4, 1),
        (0.999, 3, 9, 4, 5),
    ],
)
def test_as_many_batches_as_decimals_say(share, epochs, images, batch_size, batches):
    extent = ViewsExtent(format=2, label_share=share, epochs=epochs, batch_size=batch_size)
    assert extent.batches(images) == batches and extent.views(images) == batches * batch_size
    assert extent.per_epoch(images) == images // batch_size


def test_whole_views_have_the_shorter_batch_of_an_epoch_too():
    extent = ViewsExtent(epochs=3, batch_size=4)
    assert (extent.per_epoch(9), extent.batches(9), extent.views(9)) == (3, 9, 27)


@pytest.fixture(scope="module")
def teacher(digits):
    torch.manual_seed(1)
    return Classifier(build("convnet-1", 10, 16), id="a teacher", architecture="convnet-1", classes=digits.classes,
                      class_names=digits.class_names, image_size=16)  # fmt: skip


def drawn(folder, teacher, state, **kept):
    images = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (50, 3, 16, 16), dtype=np.uint8))
    how = {"epochs": 5, "mirrored": True, "seed": 3, "batch_size": 20, **kept}
    store_views(folder, manifest_of(folder), *draw_views(Run(state, {}), images, teacher, RECORD, **how))
    return read(folder)


@pytest.fixture
def folder(make_set, tmp_path):
    return make_set(tmp_path / "set", list(range(10)))


def test_pruned_views_are_the_first_whole_ones_and_no_other_is_labelled(folder, teacher, tmp_path, monkeypatch):
    whole = drawn(folder, teacher, tmp_path / "whole")
    calls, logits = [], teacher.logits
    monkeypatch.setattr(teacher, "logits", lambda images: calls.append(len(images)) or logits(images))
    monkeypatch.setattr(drawing, "CHUNK_ROWS", 60)  # three batches a chunk, of two epochs
    pruned = drawn(folder, teacher, tmp_path / "pruned", label_share=0.55)
    same(pruned, [whole[index] for index in (0, 1, 3, 4, 6)])  # every third has 10 views
    assert calls == [20] * 5
    record = manifest_of(folder).views
    assert (record.format, record.label_share, record.top_k, record.rows) == (2, 0.55, None, 100)


def test_the_largest_logits_are_those_of_the_whole_views(folder, teacher, tmp_path):
    whole = drawn(folder, teacher, tmp_path / "whole")
    for k, share in ((3, 1.0), (1, 0.25)):
        kept = drawn(folder, teacher, tmp_path / f"kept-{k}", top_k=k, label_share=share)
        same(kept, [largest(batch, k) for batch in (whole if share == 1 else [whole[0], whole[1]])])


def test_equal_logits_are_kept_by_class(folder, teacher, tmp_path, monkeypatch):
    close = torch.tensor([0.0, 1.0, 1.0001, 2.0, 1.0, 0.5, 2.0, 1.0, 0.0, 0.0])  # 1.0001 is 1 in half precision
    monkeypatch.setattr(teacher, "logits", lambda images: close.expand(len(images), 10))
    (batch,) = drawn(folder, teacher, tmp_path / "state", top_k=5, label_share=0.1)
    assert batch["class_index"][0].tolist() == [3, 6, 1, 2, 4] and batch["logits"][0].tolist() == [2, 2, 1, 1, 1]


@pytest.fixture
def kept(artifact, make_views, facts):
    """A set of 3 classes with two of three epochs' whole batches, and two of the three logits of a view."""
    facts = facts.model_copy(update={"label_share": 0.7, "top_k": 2})
    batches = [largest(batch, 2) for batch in list(make_views())[:3:2]]
    write_views(artifact, manifest_of(artifact), batches, facts)
    return artifact, facts, batches


def test_kept_views_come_back_as_they_went_in(kept):
    folder, _, batches = kept
    found = read(folder)
    assert [batch["class_index"].dtype for batch in found] == [np.uint16] * 2
    for one, other in zip(found, batches, strict=True):
        assert set(one) == set(other)
        for name, values in one.items():
            np.testing.assert_array_equal(values, other[name].astype(values.dtype), err_msg=name)


def test_card_and_info_say_what_is_kept(kept, capsys):
    folder, _, _ = kept
    card = render_card(manifest_of(folder), (), location=str(folder), files=find(folder).files)
    section = card[card.index("## Stored views\n") : card.index("## How it was made\n")]
    for said in (
        "in the first 2 batches of training is stored, too, a share of 0.7 of those of 3 epochs: an augmented view",
        "and the 2 largest of the 3 logits that a teacher (org/labeller) gives",
        "draws its batches among these, with replacement",
        "finished view, largest first, and `class_index` has their classes.",
        f"distill-hub evaluate {folder} --protocol lpqld\n",
    ):
        assert section.count(said) == 1, said
    assert "and 64 bytes of logits" in card  # 8 rows of 2 logits and 2 classes, 2 bytes each
    assert "  - name: class_index\n    list: uint16\n    length: 2\n" in card
    capsys.readouterr()
    show_info(InfoConfig(location=str(folder)))
    size = (folder / SHARD).stat().st_size
    expected = (
        f"the first 2 batches, 0.7 of 3 epochs, the 2 largest of 3 logits, labelled by org/labeller, {size / 1000:.0f} kB"
    )
    assert expected in " ".join(capsys.readouterr().out.split())  # as wide as any terminal is


BAD = {
    "class that is none": (lambda b: b["class_index"].__setitem__((0, 0), 3), "classes must be of the set"),
    "class twice": (lambda b: b["class_index"].__setitem__(0, 1), "each there once"),
    "smallest first": (lambda b: b.update(logits=b["logits"][:, ::-1]), "largest logits must come first"),
    "image twice": (
        lambda b: b.update(image_index=b["image_index"][[0, 0, 1, 2]], partner_index=b["image_index"][[0] * 4]),
        "every image must be there once at most",
    ),
    "image that is none": (
        lambda b: b.update(image_index=b["image_index"] + 6, partner_index=b["partner_index"] + 6),
        "at most",
    ),
    "other epoch": (lambda b: b.update(epoch=b["epoch"] + 1), "another epoch"),
}


@pytest.mark.parametrize("fault", BAD)
def test_kept_values_that_cannot_be_are_not_written(kept, fault):
    folder, facts, batches = kept
    change, reason = BAD[fault]
    change(batches[0])
    with pytest.raises(ValueError, match=reason):
        write_views(folder, manifest_of(folder), batches, facts)


def edited(folder, **fields):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["views"] = {name: value for name, value in {**manifest["views"], **fields}.items() if value != "absent"}
    path.write_text(json.dumps(manifest), encoding="utf-8")


@pytest.mark.parametrize(
    ("fields", "field", "reason"),
    [
        ({"format": 3, "epochs": "many", "colour": "blue"}, "views.format", "a newer one may read 3"),
        ({"format": 0}, "views.format", "formats 1 to 2"),
        ({"format": "absent"}, "views", "format 1 are neither pruned nor cut"),
        ({"label_share": 0.0}, "views.label_share", "greater than 0"),
        ({"label_share": 1.1}, "views.label_share", "less than or equal to 1"),
        ({"label_share": 0.2}, "content", "0.2 of 3 epochs of 6 images are not 8 stored views"),
        ({"batch_size": 8}, "content", "pruned views are whole batches, and 6 images are none of 8"),
        ({"top_k": 0}, "views.top_k", "greater than 0"),
        ({"top_k": 3}, "content", "of 3 logits the 3 largest are all"),
    ],
)
def test_records_that_cannot_be_are_refused_by_name(kept, fields, field, reason):
    edited(kept[0], **fields)
    with pytest.raises(InputError) as caught:
        manifest_of(kept[0])
    assert caught.value.field == f"manifest.json: {field}" and reason in str(caught.value)
    assert "\n" not in str(caught.value)


def test_format_1_is_read_and_stays_what_it_was(with_views, make_views):
    """A file of format 1 differs by the names of two columns, and its record by what was not known then."""
    expected = read(with_views)
    names = {"image_index": "image", "partner_index": "partner"}
    file = pq.ParquetFile(with_views / SHARD)
    groups = [file.read_row_group(i).to_pydict() for i in range(file.num_row_groups)]
    schema = pa.schema([field.with_name(names.get(field.name, field.name)) for field in file.schema_arrow])
    with pq.ParquetWriter(with_views / SHARD, schema) as writer:
        for group in groups:
            writer.write_table(pa.table({names.get(k, k): v for k, v in group.items()}, schema))
    with pytest.raises(InputError, match="column 'image' is not as the format has it"):
        opened(with_views)
    edited(with_views, format="absent", label_share="absent", top_k="absent")
    same(read(with_views), expected)

    manifest = manifest_of(with_views)
    assert manifest.views.format == 1
    assert not {"format", "label_share", "top_k"} & set(json.loads(manifest.to_json())["views"])
    card = render_card(manifest, (), location=str(with_views), files=find(with_views).files)
    assert "set's row `image`:" in card and 'views[0]["image"]' in card and "  - name: partner\n" in card
    with pytest.raises(ValueError, match="written in format 2, not 1"):
        write_views(with_views, manifest, make_views(), manifest.views)


@pytest.mark.parametrize(
    ("top_k", "classes", "reason"),
    [(10, 10, "a view has 10 logits: choose fewer, or leave it out"), (5, 65_537, "16 bits")],
)
def test_what_cannot_be_kept_is_refused(top_k, classes, reason):
    with pytest.raises(InputError, match=reason) as caught:
        check_top_k(top_k, classes)
    assert caught.value.field == "top_k"


def test_what_is_not_stored_is_offered_with_its_size():
    """ImageNet-1K at IPC 10: 3 million views of 2,000 bytes; batches of 1,024, or 9 whole ones in an epoch."""
    line = offer(10_000, 1000)
    assert "\n" not in line and "take about 6.0 GB (--view_epochs 300)" in line
    pruned, cut = 67 * (1024 * 2014 + 1000), 300 * (10_000 * 179 + 10 * 1000)  # int(300 * 9 * 0.025) = 67
    assert f"{pruned / 1e6:.1f} MB (--label_share 0.025)" in line and f"{cut / 1e6:.1f} MB (--top_k 50)" in line


@pytest.mark.parametrize(("k", "share"), [(None, 0.1), (5, 1.0), (10, 0.5)])
def test_the_size_of_kept_views_is_known_beforehand(tmp_path, build_manifest, make_views, facts, k, share):
    manifest = build_manifest(classes=[ClassRecord(name=str(i), source_index=i) for i in range(100)], ipc=2)("0" * 64)
    how = {"epochs": 10, "batch_size": 50, "image_size": 224, "label_share": share, "top_k": k}
    facts = facts.model_copy(update=how)
    batches = list(make_views(200, 100, 10, 50, side=224))[: facts.batches(200)]
    write_views(tmp_path, manifest, [largest(batch, k) for batch in batches] if k else batches, facts)
    assert predicted_bytes(facts, 200, 100) == pytest.approx((tmp_path / SHARD).stat().st_size, rel=0.1)
