"""Stored views: what is written comes back, as does its hash by other means; whatever was tampered with is refused."""

import hashlib
import json
import os
import re
import struct

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distill_hub.artifact import package
from distill_hub.artifact.find import find
from distill_hub.artifact.load import load_artifact
from distill_hub.artifact.manifest import ClassRecord, Manifest
from distill_hub.artifact.package import write_artifact
from distill_hub.commands.info import run as show_info
from distill_hub.config import InputError
from distill_hub.evaluation.views import predicted_bytes
from distill_hub.options.commands import InfoConfig
from distill_hub.publishing.card import cards_folder
from distill_hub.views.columns import view_features
from distill_hub.views.files import open_views, write_views

SHARD = "views/train-00000-of-00001.parquet"
KINDS = {
    "epoch": "i4",
    "image_index": "i4",
    "crop": "f4",
    "flip": "?",
    "partner_index": "i4",
    "box": "i4",
    "share": "f4",
    "logits": "f2",
}


def manifest_of(folder):
    return Manifest.read(folder / "manifest.json")


def opened(folder):
    return open_views(find(folder), manifest_of(folder))


def contents(folder):
    files = (path for path in folder.rglob("*") if path.is_file() and ".run" not in path.parts)
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def edit_record(folder, **fields):
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    manifest["views"].update(fields)
    path.write_text(json.dumps(manifest), encoding="utf-8")


IN_FORMAT_1 = {"image_index": "image", "partner_index": "partner"}


def packed(batches):
    """The bytes that FORMAT.md describes, by other means than the package's."""
    return b"".join(
        struct.pack("<ii4f?i4if", epoch, image, *crop, flip, partner, *box, share) + struct.pack(f"<{len(logits)}e", *logits)
        for batch in batches
        for epoch, image, crop, flip, partner, box, share, logits in zip(*(batch[name] for name in KINDS), strict=True)
    )


def refusal(folder):
    with pytest.raises(InputError) as caught:
        opened(folder)
    assert caught.value.field == "views" and "\n" not in str(caught.value)
    return str(caught.value)


def test_views_come_back_as_they_went_in(with_views, make_views, facts):
    views = opened(with_views)
    assert views.record == manifest_of(with_views).views
    assert views.record.model_dump(exclude={"rows", "sha256"}) == facts.model_dump() and views.record.rows == 18
    assert views.count == 6
    read = [views.batch(index) for index in range(6)]
    assert [len(batch["image_index"]) for batch in read] == [4, 2] * 3
    for batch, written in zip(read, make_views(), strict=True):
        assert list(batch) == list(KINDS)
        for name, kind in KINDS.items():
            assert batch[name].dtype == kind and batch[name].flags.writeable and batch[name].flags.c_contiguous
            np.testing.assert_array_equal(batch[name], written[name].astype(kind))


@pytest.mark.parametrize("index", [-1, 6])
def test_there_is_no_other_batch(with_views, index):
    with pytest.raises(IndexError, match="batches 0 to 5"):
        opened(with_views).batch(index)


def test_the_content_is_the_same_with_and_without_views(with_views, make_evaluation):
    loaded = load_artifact(with_views)  # recomputes the hash of the content
    assert [record.student for record in loaded.evaluations] == ["convnet2"]  # measured before there were views


def test_the_hash_is_that_of_the_documented_bytes(with_views, make_views):
    assert manifest_of(with_views).views.sha256 == hashlib.sha256(packed(make_views())).hexdigest()


def test_format_md_lists_every_column(facts):
    text = (cards_folder() / "FORMAT.md").read_text(encoding="utf-8")
    columns = text[text.index("### Columns of the views") : text.index("### The manifest's `views`")]
    assert re.findall(r"^\| `(\w+)`", columns, re.MULTILINE) == list(view_features(facts.model_copy(update={"top_k": 2}), 3))
    assert list(view_features(facts, 3)) == list(KINDS)


def test_load_dataset_knows_both_configurations_without_this_package(with_views, make_views, python, tmp_path):
    card = (with_views / "README.md").read_text(encoding="utf-8")
    snippet = re.findall(r"```python\n(.*?)```", card, re.DOTALL)[-1]
    assert f'load_dataset("{with_views}", "views", split="train")' in snippet
    printed = python(
        "import sys; sys.modules['distill_hub'] = None\n"
        f"{snippet}\n"
        f"default = load_dataset('{with_views}', split='train')\n"
        "print(len(default), default.column_names[0], list(default['label']))\n"
        "for feature in views.features.items(): print(*feature)\n"
        f"views.to_parquet('{tmp_path}/loaded.parquet')\n"
        "from datasets import get_dataset_config_names, get_dataset_default_config_name\n"
        f"print(get_dataset_config_names('{with_views}'), get_dataset_default_config_name('{with_views}'))\n"
    ).splitlines()
    first = next(make_views())
    assert printed == [
        f"{first['image_index'][0]} {first['crop'][0].tolist()} 3",
        "6 image [0, 0, 1, 1, 2, 2]",
        "epoch Value('int32')",
        "image_index Value('int32')",
        "crop List(Value('float32'), length=4)",
        "flip Value('bool')",
        "partner_index Value('int32')",
        "box List(Value('int32'), length=4)",
        "share Value('float32')",
        "logits List(Value('float16'), length=3)",
        "['default', 'views'] default",
    ]
    loaded = pq.read_table(tmp_path / "loaded.parquet").to_pydict()
    assert packed([loaded]) == packed(make_views())


def test_a_batch_is_a_row_group_and_is_read_alone(with_views, make_views, facts, monkeypatch):
    monkeypatch.setattr(package, "SHARD_BYTES", 1)
    write_views(with_views, manifest_of(with_views), make_views(), facts)
    shards = sorted((with_views / "views").iterdir())
    assert [shard.name for shard in shards] == [f"train-0000{i}-of-00006.parquet" for i in range(6)]
    views = opened(with_views)
    written = list(make_views())
    assert all(packed([views.batch(i)]) == packed([written[i]]) for i in (5, 0, 2, 3, 4, 1))

    monkeypatch.undo()
    monkeypatch.setattr(package, "SHARD_GROUPS", 4)
    write_views(with_views, manifest_of(with_views), make_views(), facts)
    shards = sorted((with_views / "views").iterdir())
    assert [pq.read_metadata(shard).num_row_groups for shard in shards] == [4, 2]
    views = opened(with_views)
    assert all(packed([views.batch(i)]) == packed([written[i]]) for i in (4, 3, 5, 0))

    monkeypatch.undo()
    write_views(with_views, manifest_of(with_views), make_views(), facts)  # fewer shards: none may be left over
    assert [shard.name for shard in (with_views / "views").iterdir()] == ["train-00000-of-00001.parquet"]
    footer = pq.read_metadata(with_views / SHARD)
    assert [footer.row_group(i).num_rows for i in range(footer.num_row_groups)] == [4, 2] * 3
    read, real = [], pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda self, i: read.append(i) or real(self, i))
    views = opened(with_views)
    assert read == [0, 1, 2, 3, 4, 5]
    views.batch(3)
    assert read[6:] == [3]


def test_same_batches_same_bytes(with_views, make_views, facts):
    before = contents(with_views)
    write_views(with_views, manifest_of(with_views), make_views(), facts)
    assert contents(with_views) == before


def test_views_of_another_content_go(with_views, make_rows, build_manifest, names):
    with_views_before = manifest_of(with_views)
    write_artifact(with_views, make_rows(seed=1), build_manifest(), class_names=names)
    assert manifest_of(with_views).views is None and not list((with_views / "views").iterdir())
    load_artifact(with_views)
    assert "the set holds no stored views" in refusal(with_views)
    with pytest.raises(ValueError, match="written after the rows"):
        write_artifact(with_views, make_rows(), build_manifest(views=with_views_before.views), class_names=names)


def of_first(**columns):
    """Replace cells of the first row."""

    def change(batches):
        for name, value in columns.items():
            batches[0][name] = np.concatenate([np.asarray([value], batches[0][name].dtype), batches[0][name][1:]])

    return change


BAD_VALUES = {
    "epoch": (of_first(epoch=1), "epoch 0: a row is of another epoch"),
    "image twice": (
        lambda b: b[0].update(image_index=b[0]["partner_index"][[0, 0, 1, 2]], partner_index=b[0]["partner_index"][[0] * 4]),
        "once",
    ),
    "image that is none": (
        lambda b: b[0].update(image_index=b[0]["image_index"] + 6, partner_index=b[0]["partner_index"] + 6),
        "once",
    ),
    "partner of another batch": (lambda b: b[0].update(partner_index=b[1]["image_index"][[0, 0, 1, 1]]), "partners must be"),
    "partner that is none": (of_first(partner_index=-1), "partners must be"),
    "box below the view": (of_first(box=[0, 0, 17, 16]), "boxes must lie"),
    "box above the view": (of_first(box=[-1, 0, 1, 1]), "boxes must lie"),
    "box upside down": (of_first(box=[8, 8, 4, 4], share=1 - 16 / 256), "boxes must lie"),
    "crop beyond the right": (of_first(crop=[0, 0.5, 1, 0.51]), "crops must lie"),
    "crop beyond the top": (of_first(crop=[-0.1, 0, 1, 1]), "crops must lie"),
    "crop of nothing": (of_first(crop=[0, 0, 0, 1]), "crops must lie"),
    "crop that is no number": (of_first(crop=[0, 0, 1, np.nan]), "crops must lie"),
    "share": (of_first(box=[0, 0, 8, 8], share=0.74), "share must be"),
    "share that is no number": (of_first(share=np.nan), "share must be"),
    "infinite logit": (of_first(logits=[0, np.inf, 0]), "logits must be finite"),
    "logit that is no number": (of_first(logits=[0, 0, np.nan]), "logits must be finite"),
}


@pytest.mark.parametrize("fault", BAD_VALUES)
def test_values_that_cannot_be_are_not_written(with_views, make_views, facts, fault):
    before = contents(with_views)
    change, reason = BAD_VALUES[fault]
    batches = list(make_views(seed=1))
    change(batches)
    with pytest.raises(ValueError, match=reason):
        write_views(with_views, manifest_of(with_views), batches, facts)
    assert contents(with_views) == before


@pytest.mark.parametrize(
    ("change", "error", "reason"),
    [
        (lambda b: b.pop(), ValueError, "epoch 2: the next batch must have 2 views, it has none"),
        (lambda b: b.append(b[0]), ValueError, "more batches than 3 epochs have"),
        (lambda b: b.insert(0, b.pop(1)), ValueError, "epoch 0: the next batch must have 4 views, it has 2"),
        (lambda b: b[0].pop("flip"), ValueError, "needs the columns"),
        (lambda b: b[0].update(logits=b[0]["logits"][:, :2]), ValueError, r"logits must have shape \(4, 3\), not \(4, 2\)"),
        (lambda b: b[0].update(share=b[0]["share"][0]), ValueError, r"share must have shape \(4,\), not \(\)"),
        (lambda b: b[0].update(logits=b[0]["logits"] + 70_000), ValueError, "logits must be finite"),  # in float16
        (lambda b: b[0].update(image_index=b[0]["image_index"] + 0.5), TypeError, "float64"),
    ],
)
def test_batches_of_another_shape_are_not_written(with_views, make_views, facts, change, error, reason):
    before = contents(with_views)
    batches = list(make_views(seed=1))
    change(batches)
    with pytest.raises(error, match=reason):
        write_views(with_views, manifest_of(with_views), batches, facts)
    assert contents(with_views) == before


def test_a_teacher_that_fails_half_way_leaves_the_old_views(with_views, make_views, facts):
    before = contents(with_views)

    def batches():
        yield from list(make_views(seed=1))[:5]
        raise OSError("No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_views(with_views, manifest_of(with_views), batches(), facts)
    assert contents(with_views) == before
    write_views(with_views, manifest_of(with_views), make_views(seed=1), facts)  # what was staged is no obstacle
    assert packed(map(opened(with_views).batch, range(2))) == packed(list(make_views(seed=1))[:2])
    assert not (with_views / ".run" / "staging").exists()


def test_stopped_between_views_and_manifest(artifact, make_views, facts, monkeypatch):
    real = os.replace

    def replace(source, target):
        if target == artifact / "manifest.json":
            raise KeyboardInterrupt
        real(source, target)

    def stopped(seed):
        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            write_views(artifact, manifest_of(artifact), make_views(seed=seed), facts)
        monkeypatch.undo()

    stopped(seed=0)
    assert "holds no stored views" in refusal(artifact)  # the manifest does not know them yet
    write_views(artifact, manifest_of(artifact), make_views(), facts)
    stopped(seed=1)
    assert "altered" in refusal(artifact)
    load_artifact(artifact)  # the images are what they were
    write_views(artifact, manifest_of(artifact), make_views(seed=1), facts)
    opened(artifact)


def rewrite(folder, change, *, rehash=True, cut=None, schema=lambda schema: schema):
    """Write the shard anew with other cells, row groups or types; by default the manifest has the hash that fits."""
    file = pq.ParquetFile(folder / SHARD)
    groups = [file.read_row_group(i).to_pydict() for i in range(file.num_row_groups)]
    columns = schema(file.schema_arrow)
    change(groups)
    if rehash:
        edit_record(folder, sha256=hashlib.sha256(packed(groups)).hexdigest())
    table = pa.concat_tables([pa.Table.from_pydict(group, schema=columns) for group in groups])
    with pq.ParquetWriter(folder / SHARD, columns) as writer:
        start = 0
        for rows in cut or [4, 2] * 3:
            writer.write_table(table.slice(start, rows))
            start += rows


def cell(**columns):
    def change(groups):
        for name, value in columns.items():
            groups[0][name][0] = value

    return change


def of_type(column, kind):
    return lambda schema: schema.set(schema.get_field_index(column), pa.field(column, kind))


def test_rewritten_without_a_change_is_accepted(with_views):
    """So that the refusals below are for what was changed; the hash is of the values, not of the file."""
    before = (with_views / SHARD).read_bytes()
    rewrite(with_views, lambda groups: None, rehash=False)
    assert (with_views / SHARD).read_bytes() != before
    opened(with_views)


@pytest.mark.parametrize("fault", BAD_VALUES)
def test_values_that_cannot_be_are_refused_though_their_hash_fits(with_views, fault):
    change, reason = BAD_VALUES[fault]

    def edit(groups):
        arrays = [{name: np.asarray(values, KINDS[name]) for name, values in group.items()} for group in groups]
        change(arrays)
        for group, array in zip(groups, arrays, strict=True):
            group.update({name: list(values) for name, values in array.items()})

    rewrite(with_views, edit)
    assert reason in refusal(with_views)


TAMPERED = {
    "one bit of a logit": (lambda f: rewrite(f, cell(logits=np.zeros(3, "f2")), rehash=False), "they were altered"),
    "a mirrored view": (lambda f: rewrite(f, lambda g: cell(flip=not g[0]["flip"][0])(g), rehash=False), "altered"),
    "epochs exchanged": (lambda f: rewrite(f, lambda g: g.insert(0, g.pop(2))), "epoch 0"),
    "empty cell": (lambda f: rewrite(f, cell(share=None), rehash=False), "column 'share' has empty cells"),
    "empty list": (lambda f: rewrite(f, cell(logits=None), rehash=False), "column 'logits' has empty cells"),
    "empty entry": (lambda f: rewrite(f, cell(box=[0, 0, None, 1]), rehash=False), "column 'box' has empty cells"),
    "batches in one row group": (lambda f: rewrite(f, lambda g: None, cut=[6] * 3), "there are 3"),
    "batches cut elsewhere": (lambda f: rewrite(f, lambda g: None, cut=[2, 4] * 3), "a batch of 4 is in a row group of 2"),
    "an epoch less": (lambda f: rewrite(f, lambda g: None, cut=[4, 2] * 2), "need 6 row groups, there are 4"),
    "a row less": (lambda f: rewrite(f, lambda g: None, cut=[4, 2, 4, 2, 4, 1]), "a batch of 2 is in a row group of 1"),
    "logits in double precision": (
        lambda f: rewrite(f, lambda g: None, schema=of_type("logits", pa.list_(pa.float32(), 3))),
        "column 'logits' is not as the format has it",
    ),
    "lists of any length": (
        lambda f: rewrite(f, lambda g: None, schema=of_type("logits", pa.list_(pa.float16()))),
        "column 'logits'",
    ),
    "another column": (
        lambda f: rewrite(
            f, lambda g: [b.update(note=b["epoch"]) for b in g], schema=lambda s: s.append(pa.field("note", pa.int32()))
        ),
        "column 'note'",
    ),
    "a column less": (lambda f: rewrite(f, lambda g: None, schema=lambda s: s.remove(7)), "column 'logits'"),
    "no file": (lambda f: (f / SHARD).unlink(), "it holds no views/train-*.parquet"),
    "a file less": (
        lambda f: (f / SHARD).rename(f / "views/train-00000-of-00002.parquet"),
        "views/train-00001-of-00002.parquet is missing",
    ),
    "a file more": (lambda f: (f / "views/train-more.parquet").write_bytes(b""), "train-more.parquet is one too many"),
    "a large file": (lambda f: (f / SHARD).write_bytes(bytes(2_000_000)), "more than 18 views can need"),
    "a truncated file": (lambda f: (f / SHARD).write_bytes((f / SHARD).read_bytes()[:-50]), "no parquet file"),
    "no parquet": (lambda f: (f / SHARD).write_bytes(b"PAR1 and then nothing PAR1"), "views: "),
    "fewer epochs on record": (lambda f: edit_record(f, epochs=2, rows=12), "need 4 row groups, there are 6"),
    "more epochs on record": (lambda f: edit_record(f, epochs=10**6, rows=6 * 10**6), "there are 6"),
    "other batches on record": (lambda f: edit_record(f, batch_size=3), "a batch of 3 is in a row group of 4"),
    "smaller views on record": (lambda f: edit_record(f, image_size=15), "epoch 0: "),
    "another hash on record": (lambda f: edit_record(f, sha256="0" * 64), "the manifest has 0000"),
}


@pytest.mark.parametrize("tampering", TAMPERED)
def test_tampered_views_are_refused(with_views, tampering):
    tamper, reason = TAMPERED[tampering]
    tamper(with_views)
    assert reason in refusal(with_views)
    load_artifact(with_views)  # which does not look at them


def test_lists_that_swell_are_refused_before_they_are_read(with_views, monkeypatch):
    """The types that Arrow reads into are on record beside those that are stored, and may lie."""
    file = pq.ParquetFile(with_views / SHARD)
    declared = file.metadata.metadata[b"ARROW:schema"]
    groups = [file.read_row_group(i).to_pydict() for i in range(6)]
    groups[0]["logits"][0] = [np.float16(0)] * 1_000_000
    schema = of_type("logits", pa.list_(pa.float16()))(file.schema_arrow)
    with pq.ParquetWriter(with_views / SHARD, schema, store_schema=False, use_dictionary=False) as writer:
        writer.add_key_value_metadata({b"ARROW:schema": declared})
        for group in groups:
            writer.write_table(pa.Table.from_pydict(group, schema=schema))
    assert (with_views / SHARD).stat().st_size < 500_000
    assert pq.read_schema(with_views / SHARD).field("logits").type == pa.list_(pa.float16(), 3)
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda *args: pytest.fail("it was read"))
    assert "more than its views can need" in refusal(with_views)


def test_a_manifest_that_claims_everything_costs_nothing(with_views):
    path = with_views / "manifest.json"
    manifest = json.loads(path.read_text(encoding="utf-8"))
    classes = [{"name": str(i), "source_index": i} for i in range(1000)]
    path.write_text(json.dumps({**manifest, "classes": classes, "ipc": 10**6}), encoding="utf-8")
    edit_record(with_views, epochs=10**6, batch_size=1, rows=10**15)
    assert "column 'logits'" in refusal(with_views)
    path.write_text(json.dumps({**manifest, "ipc": 10**6}), encoding="utf-8")
    edit_record(with_views, epochs=10**6, batch_size=1, rows=3 * 10**12)
    assert "1,000,000 epochs of 3,000,000 batches" in refusal(with_views)


def test_damaged_byte_anywhere_is_refused_or_changes_nothing(with_views, make_views):
    path, values = with_views / SHARD, packed(make_views())
    good = path.read_bytes()
    refused = 0
    positions = range(4, len(good), 61)
    for position in positions:
        path.write_bytes(good[:position] + bytes([good[position] ^ 0x10]) + good[position + 1 :])
        try:
            views = opened(with_views)
            assert packed(map(views.batch, range(6))) == values
        except InputError:  # any other error fails the test
            refused += 1
    assert refused > 0.3 * len(positions)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rows": 17}, "3 epochs of 6 images are not 17 stored views"),
        ({"crop_scale": [0.5, 0.4]}, "crop_scale"),
        ({"crop_scale": [0.0, 1.0]}, "crop_scale"),
        ({"mix": "mixup"}, "mix"),
        ({"batch_size": 0}, "batch_size"),
        ({"colour": "blue"}, "colour"),
    ],
)
def test_a_record_that_cannot_be_is_refused(with_views, fields, message):
    edit_record(with_views, **fields)
    with pytest.raises(InputError, match=r"^manifest\.json: ") as caught:
        manifest_of(with_views)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("ipc", "classes", "epochs", "batch_size"), [(10, 10, 60, 50), (1, 10, 60, 10), (10, 100, 5, 128), (1, 1000, 3, 1000)]
)
def test_the_size_is_known_beforehand(tmp_path, build_manifest, make_views, facts, ipc, classes, epochs, batch_size):
    records = [ClassRecord(name=str(i), source_index=i) for i in range(classes)]
    manifest = build_manifest(classes=records, ipc=ipc)("0" * 64)
    images = ipc * classes
    facts = facts.model_copy(update={"epochs": epochs, "batch_size": batch_size, "image_size": 224})
    write_views(tmp_path, manifest, make_views(images, classes, epochs, batch_size, side=224), facts)
    size = (tmp_path / SHARD).stat().st_size
    assert predicted_bytes(facts, images, classes) == pytest.approx(size, rel=0.15)


def test_info_tells_of_them(with_views, artifact, make_rows, build_manifest, names, capsys):
    show_info(InfoConfig(location=str(with_views)))
    size = (with_views / SHARD).stat().st_size
    line = next(line for line in capsys.readouterr().out.splitlines() if "views" in line.split()[:1])
    assert line.split(maxsplit=1)[1].strip() == f"3 epochs, labelled by org/labeller, {size / 1000:.0f} kB"
    write_artifact(artifact, make_rows(), build_manifest(), class_names=names)
    show_info(InfoConfig(location=str(artifact)))
    assert "epochs, labelled" not in capsys.readouterr().out
