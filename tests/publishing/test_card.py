"""The card. What it is expected to be, in full, lies in gold/; after a change of the template, write it anew and read it:

WRITE_GOLD=1 python -m pytest tests/publishing/test_card.py -k gold && git diff tests/publishing/gold
"""

import os
import re
from pathlib import Path

import bibtexparser
import pytest
from datasets import Features
from datasets.info import DatasetInfosDict
from datasets.utils.metadata import MetadataConfigs
from huggingface_hub import DatasetCard

from distill_hub.artifact.base import Record
from distill_hub.artifact.describe import ensemble_record, source_record
from distill_hub.artifact.manifest import ClassRecord, MethodRecord, SelectorRecord, ViewsRecord
from distill_hub.artifact.records import DataBytes, DDRanking, Score
from distill_hub.artifact.schema import features
from distill_hub.data.citations import SOURCES
from distill_hub.data.known import KNOWN
from distill_hub.data.sources import load_source
from distill_hub.publishing.card import PICTURES, render_card
from distill_hub.publishing.tags import Tagged, read_tags
from distill_hub.views.columns import view_features

GOLD = Path(__file__).parent / "gold"
CONTENT = "c" * 64
DEFAULT = {"config_name": "default", "data_files": [{"split": "train", "path": "data/train-*"}], "default": True}


@pytest.fixture
def render(build_manifest, make_evaluation):
    def run(evaluations=(), location="org/fish-ipc2-cao2", pictures=(), **fields):
        records = [make_evaluation(CONTENT, **changes) for changes in evaluations]
        return render_card(
            build_manifest(**fields)(CONTENT),
            records,
            location=location,
            files={"data/train-0.parquet": 2_500_000, "views/train-0.parquet": 40_000, **dict.fromkeys(pictures, 1)},
        )

    return run


def blocks(card, language):
    return re.findall(rf"```{language}\n(.*?)```", card, re.DOTALL)


def check_is_clean(card):
    for leftover in ("{{", "{%", "TODO", "More Information Needed", "\n\n\n", " \n", "<jinja", "object at 0x"):
        assert leftover not in card, leftover
    for word in ("None", "undefined", "Undefined", "nan", "NaN", "inf"):
        assert not re.search(rf"\b{word}\b", card), word
    assert card.endswith("\n")
    body = card.split("---\n", 2)[2]
    rows = re.findall(r"(?:^\|.*\n)+", body, re.MULTILINE)
    for table in rows:  # a line of another width is not shown as part of its table
        widths = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(widths) == 1, table
    # What is folded away is Markdown only between empty lines.
    assert body.count("<details>\n<summary>") == body.count("</summary>\n\n") == body.count("\n\n</details>\n")
    assert body.count("<details>") == body.count("</details>") == body.count("\n\n<details>")


@pytest.fixture
def everything(full, make_tuning, views):
    """Fields of a manifest without a gap."""
    return {**full, "generator": full["generator"].model_copy(update={"tuning": make_tuning()}), "views": views}


@pytest.fixture
def measured(full):
    """Fields of two records: the author's, and another person's with all there is."""
    curve = [[0.6, 0.5], [0.7, 0.6], [0.8, 0.7]]
    scores = [Score(last=[0.5, 0.6, 0.7], best=[0.6, 0.7, 0.8], best_epoch=[3, 4, 5], curve=c) for c in (None, curve)]
    other = {
        "protocol": "rded-soft", "standard": True, "student": "timm/resnet18", "settings": {"looks": [3, 5]},
        "score": scores[1], "dd_ranking": DDRanking(lrs=0.25, ars=0.31, real_accuracy=0.912), "mmd": 0.0123456,
        "teacher": full["teacher"], "views_sha256": "3" * 64, "source_revision": "a" * 40, "submitted_by": "bob",
        "bytes": DataBytes(images=2_000_000),
    }  # fmt: skip
    return [{"score": scores[0], "bytes": DataBytes(images=2_000_000, labels=400_000)}, other]


@pytest.fixture
def draw_gold(render, everything, measured):
    """By name of the gold file, a function that renders the card anew."""
    unknown = MethodRecord(name="x", title="X", config={})
    adopted = MethodRecord(name="dm", title="DM", paper="https://arxiv.org/abs/2110.04181", config={},
                           notes={"scaled": "from [-1.0, 1.0]", "adopted_from": f"bob/dm-fish@{'b' * 40}"})  # fmt: skip
    known = {"source": everything["source"], "origin": "external", "soft_labels": "author", "environment": None}
    return {
        "full": lambda: render(measured, pictures=PICTURES, **everything),
        "minimal": lambda: render(method=unknown, stages=[], environment=None, seed=None),
        "external": lambda: render([{}], pictures=["assets/preview.png"], method=adopted, stages=[], seed=None, **known),
    }


@pytest.mark.parametrize("name", ["full", "minimal", "external"])
def test_gold_card(draw_gold, name):
    file, card = GOLD / f"{name}.md", draw_gold[name]()
    if os.environ.get("WRITE_GOLD"):
        file.write_text(card, encoding="utf-8")
    assert card == file.read_text(encoding="utf-8")
    check_is_clean(card)


@pytest.mark.parametrize("name", ["full", "minimal", "external"])
def test_yaml_of_a_gold_card_is_what_the_hub_s_clients_read(name, names):
    data = DatasetCard.load(GOLD / f"{name}.md").data
    infos, configs = DatasetInfosDict.from_dataset_card_data(data), MetadataConfigs.from_dataset_card_data(data)
    views = ["views"] if name == "full" else []
    assert list(infos) == list(configs) == ["default", *views]
    assert infos["default"].features == features(names) and infos["default"].splits["train"].num_examples == 6
    assert all(Features.from_dict(info.features.to_dict()) == info.features for info in infos.values())
    assert {"dataset-distillation", "distill-hub", "ipc-2"} < set(data.tags)
    assert data.task_categories == ["image-classification"] and data.size_categories == ["n<1K"]


def optional(record: Record, before: str = ""):
    """Paths of all fields that may be absent; of a list, those of its first entry."""
    for name, field in type(record).model_fields.items():
        value = getattr(record, name)
        if not field.is_required() and (field.default is None or field.default_factory):
            yield before + name
        first = value[0] if isinstance(value, list) and value else value
        if isinstance(first, Record):
            yield from optional(first, f"{before}{name}.")


def without(value, path: str):
    name, _, rest = path.partition(".")
    if isinstance(value, list):
        return [without(value[0], path), *value[1:]]
    inner = getattr(value, name)
    empty = type(inner)() if isinstance(inner, dict | list) and name != "curve" else None
    return value.model_copy(update={name: without(inner, rest) if rest else empty})


def test_card_is_clean_whatever_is_absent(build_manifest, make_evaluation, everything, measured):
    manifest, record = build_manifest(**everything)(CONTENT), make_evaluation(CONTENT, **measured[1])
    how = {"location": "org/fish", "files": dict.fromkeys(["data/train-0.parquet", *PICTURES], 2000)}
    whole = render_card(manifest, [record], **how)
    paths = {*optional(manifest), "stages", "method.config"}
    assert {"seed", "views", "source.revision", "classes.wnid", "generator.tuning", "method.notes"} < paths
    for path in sorted(paths):
        check_is_clean(render_card(without(manifest, path), [record], **how))
    for path in optional(record):
        card = render_card(manifest, [without(record, path)], **how)
        check_is_clean(card)
        silent = ("score.curve", "settings", "source_revision", "views_sha256", "test_images", "chance")
        silent += ("processes_per_student", "protocol_package", "student_package", "backbone")
        assert (card != whole) == (path not in silent) or "." in path


def test_card_with_nothing_optional_is_clean(render):
    card = render(method=MethodRecord(name="x", title="X", paper="https://x.org", bibtex="", config={}), stages=[])
    check_is_clean(card)
    assert "No student has been trained on this set yet." in card
    for absent in ("wnid", "generator", "## Cite", "All settings", "license:", "revision"):
        assert absent not in card, absent


def test_card_with_everything_is_clean_and_says_it(render, full):
    card = render([{}], pictures=["assets/preview.png"], **full)
    check_is_clean(card)
    for said in (
        '<img src="assets/preview.png" width="360" alt="fish in 2 images per class, by CaO2: its images, class by class"',
        "| **this set** | **60.0 ± 10.0** | convnet2 | quick v1 (NON-STANDARD) | 3 | 70.0 |",
        "| random real | 40.0 ± 10.0 | convnet2 | quick v1 (NON-STANDARD) | 3 | 50.0 |",
        r"| 1 | Old \| English &lt;sheepdog> | n00000001 | 11 | 21 |",
        "[org/fish](https://huggingface.co/datasets/org/fish)",
        "it is itself right on 98.7 % of the test images",
        "10% of its training split, held out",
        "| sample | 12 | 1.2 min | unknown |",
        "| its own stages | 1.2 min | unknown | unknown |",
        "| generator | not on record | not on record | not on record |",
        "| **all that is on record** | 1.2 min | unknown | unknown |",
        "- **Largest memory of a process:** 1.3 GB (cpu)",
        "a corrected set is at `org/better`",
        "| `source_revision` | not set |",
        "| `overwrite` | `false` |",
        "Match classes by wnid, never by position",
    ):
        assert said in card, said


def test_a_selector_is_named_with_the_classes_it_judged_among(render, full):
    teacher = next(line for line in render(**full).splitlines() if line.startswith("- **Teacher:** "))
    assert "Selector" not in render(**full)
    judge = SelectorRecord(**dict(full["teacher"]), judged_over=1000)
    told = "- **Selector:** the teacher; it judged the candidates among 1000 classes"
    assert render(**full, selector=judge) == render(**full).replace(teacher, f"{teacher}\n{told}")
    judge = judge.model_copy(update={"id": "org/<judge>", "sha256": "2" * 64, "judged_over": 3})
    card = render(**full, selector=judge)
    check_is_clean(card)
    told = f"(org/teacher-net), revision `{'f' * 40}`, weights sha256 `{'2' * 12}`; it judged the candidates among 3 classes"
    assert told in next(line for line in card.splitlines() if line.startswith("- **Selector:** org/"))


@pytest.mark.parametrize(("method", "recipe"), [("mar", "plain"), ("random", "random_real"), ("psr", "psr")])
def test_the_recipe_is_called_as_it_is_typed(render, method, recipe):
    assert f"- **Method:** X, recipe `{recipe}`" in render(method=MethodRecord(name=method, title="X", config={}))


@pytest.mark.parametrize(("method", "said"), [("edc", "tells the images apart"), ("sre2l", "of an image taken as it is")])
def test_what_a_seed_is_of_a_set_without_a_generator(render, method, said):
    card = render(method=MethodRecord(name=method, title=method, config={}), generator=None, seed=0)
    assert f"| `seed` | int64 | {said}" in card


def test_a_tuned_generator_is_called_so(render, full, make_tuning):
    line = next(line for line in render(**full).splitlines() if line.startswith("- **Generator:** "))
    assert "fine-tuned" not in line
    generator = full["generator"].model_copy(update={"tuning": make_tuning()})
    tuned = render(**{**full, "generator": generator})
    check_is_clean(tuned)
    unknown = "not on record | not on record | not on record |"
    parts = f"| fine-tuning of the generator | {unknown}\n| the generator it was tuned from | {unknown}"
    assert tuned == render(**full).replace(f"| generator | {unknown}", parts).replace(
        line,
        f"{line}; fine-tuned from org/generator with [Minimax Diffusion](https://arxiv.org/abs/2311.15529) on "
        "[org/fish](https://huggingface.co/datasets/org/fish), 600 steps in 1.5 h",
    )


@pytest.mark.parametrize(
    ("base", "name"),
    [
        ("/home/eve/my models/dit/", "dit"),
        ("fitted on /home/eve/photos", "fitted on photos"),
        ("fitted on digits", "fitted on digits"),
    ],
)
def test_where_the_author_keeps_a_generator_is_no_part_of_its_name(render, full, make_tuning, base, name):
    tuning = make_tuning(
        base=full["generator"].model_copy(update={"id": base, "revision": None}),
        source=full["source"].model_copy(update={"name": "/home/eve/photos", "hub_id": None}),
    )
    card = render(generator=full["generator"].model_copy(update={"tuning": tuning}))
    assert f"fine-tuned from {name} with" in card and "on photos, 600 steps" in card and "/home" not in card


@pytest.fixture
def views(facts):
    return ViewsRecord(**dict(facts), rows=18, sha256="3" * 64)


def test_card_with_views_says_what_they_are(render, full, views):
    card = render([{}], views=views, **full)
    check_is_clean(card)
    section = card[card.index("## Stored views\n") : card.index("## How it was made\n")]
    for said in (
        "in 3 epochs of training",
        "a teacher (org/labeller)",
        "The 18 rows, 40 kB in all",
        'views = load_dataset("org/fish-ipc2-cao2", "views", split="train")',
        "4 to a batch",
        "16 pixels, mirrored if `flip`",
        "distill-hub evaluate org/fish-ipc2-cao2 --protocol fkd\n",
    ):
        assert section.count(said) == 1, said
    for column in view_features(views, 3):
        assert f"`{column}`" in section or column == "epoch"
    assert "8 pixels, 2.5 MB in all" in card  # as without views
    without = render([{}], **full)
    assert "views" not in without and "fkd" not in without
    body, other = (text.split("---\n", 2)[2] for text in (card, without))
    # 18 rows of 3 numbers of 2 bytes, and a teacher whose licence is not known
    for more in (section, ", and 108 bytes of logits with the stored views below",
                     "| teacher of the stored views | not on record | not on record | not on record |\n",
                 "| weights of the stored views' teacher | not stated |\n"):  # fmt: skip
        assert body.count(more) == 1, more
        body = body.replace(more, "")
    assert body == other


def test_yaml_with_views(render, views):
    data = DatasetCard(render(views=views)).data.to_dict()
    stored = {"config_name": "views", "data_files": [{"split": "train", "path": "views/train-*"}]}
    assert data["configs"] == [DEFAULT, stored]
    default, own = data["dataset_info"]
    assert default.pop("config_name") == "default"
    assert default == DatasetCard(render()).data.to_dict()["dataset_info"]
    assert own == {
        "config_name": "views",
        "features": [
            {"name": "epoch", "dtype": "int32"},
            {"name": "image_index", "dtype": "int32"},
            {"name": "crop", "list": "float32", "length": 4},
            {"name": "flip", "dtype": "bool"},
            {"name": "partner_index", "dtype": "int32"},
            {"name": "box", "list": "int32", "length": 4},
            {"name": "share", "dtype": "float32"},
            {"name": "logits", "list": "float16", "length": 3},
        ],
        "splits": [{"name": "train", "num_bytes": 40_000, "num_examples": 18}],
        "download_size": 40_000,
        "dataset_size": 40_000,
    }
    assert data["size_categories"] == ["n<1K"]


def test_card_says_of_learned_labels_and_rate_what_they_are(render, full):
    method = MethodRecord(name="datm", title="DATM", paper=None, bibtex=None, config={}, notes={"student_lr": 0.0981})
    card = render(**full | {"method": method}, soft_labels="learned")
    check_is_clean(card)
    assert "probabilities of the classes that were learned together with the images\n" in card
    assert "its author" not in card and "The soft labels repeat what the teacher gets wrong" not in card
    assert "; the soft labels are not its" in next(line for line in card.splitlines() if line.startswith("- **Teacher:** "))
    assert "**The set brings its own learning rate, `0.0981`:**" in card
    assert "learning rate, " not in render(**full)


def first_screen(card):
    return card.split("---\n", 2)[2].split("## Results")[0]


def test_the_first_screen_says_what_it_is_how_good_and_how_to_load_it(render, full):
    baselines = {"random real": 0.42, "ccs": 0.5, "herding": 0.45, "all real images, hard labels": 0.9, "unknown": 0.7}
    baselines = {name: Score(last=[m, m, m], best=[m, m, m], best_epoch=[1] * 3) for name, m in baselines.items()}
    screen = first_screen(render([{"baselines": baselines, "standard": True}], pictures=PICTURES, **full))
    for said in (
        "# fish in 2 images per class, by CaO2\n",
        "6 synthetic images that stand in for the 600 training images of [org/fish]",
        "| Trained on | Accuracy, % |\n|---|---|\n| **this set** | **60.0 ± 10.0** |\n| random real images | 42.0 ± 0.0 |\n"
        "| best coreset, ccs | 50.0 ± 0.0 |\n| all real images | 90.0 ± 0.0 |\n\n",
        "- **Protocol:** quick v1, student convnet2, 3 seeds, claimed by the author\n",
        "- **Size:** 2 for each of 3 classes, 8 \N{MULTIPLICATION SIGN} 8 pixels, 2.5 MB in all\n",
        "- **Licence:** CC-BY-NC-4.0\n",
        "assets/preview.png",
        'load_dataset("org/fish-ipc2-cao2", split="train")',
    ):
        assert screen.count(said) == 1, said
    assert len(screen.splitlines()) < 40 and "assets/curves.png" not in screen
    assert "- **Accuracy:** no student has been trained on this set yet\n" in first_screen(render())


def test_the_first_screen_shows_the_author_s_record_of_the_literature(render):
    other = {"student": "convnet3", "submitted_by": "bob", "standard": True}
    own = {"student": "convnet4", "standard": True}
    assert "student convnet4, 3 seeds, claimed by the author" in first_screen(render([other, {}, own]))
    assert "student convnet3, 3 seeds, measured by bob" in first_screen(render([other]))
    said = first_screen(render([{}]))
    assert "; **mind the 2 warnings** under [Results](#results)" in said  # not of the literature, and a collapsed baseline
    ranking = DDRanking(lrs=0.25, ars=0.31, real_accuracy=0.912)
    assert "| all real images | 91.2 |" in first_screen(render([{"dd_ranking": ranking}]))


def test_titles_are_in_words(render, build_manifest):
    def title(**fields):
        return re.search("^# (.*)$", render(**fields), re.MULTILINE)[1]

    cifar = build_manifest()("0" * 64).source.model_copy(update={"name": "cifar10", "hub_id": "uoft-cs/cifar10"})
    dm = MethodRecord(name="dm", title="DM: Dataset Condensation with Distribution Matching", config={})
    long = MethodRecord(name="minimax", title="Efficient Dataset Distillation via Minimax Diffusion", config={})
    assert title(source=cifar, method=dm, ipc=10) == "CIFAR-10 in 10 images per class, by DM"
    assert title(source=cifar, method=long, ipc=1) == "CIFAR-10 in 1 image per class, by minimax"
    assert title(ipc=3, class_images=[2, 3, 4]) == "fish in 2 to 4 images per class, by CaO2"
    real = render(method=MethodRecord(name="rded", title="RDED", config={}))
    assert "6 real images that stand in" in real and "synthetic images" not in real
    assert "\n6 images that stand in" in render(method=MethodRecord(name="unknown", title="an unknown method", config={}))


@pytest.mark.parametrize(
    ("names", "indices", "is_listed"),
    [
        ("0123", (0, 1, 2, 3), False),
        ("0123", (1, 0, 2, 3), True),
        ("1234", (0, 1, 2, 3), True),
        ("abcd", (0, 1, 2, 3), True),
    ],
)
def test_a_table_of_classes_that_says_nothing_is_left_out(render, names, indices, is_listed):
    card = render(classes=[ClassRecord(name=n, source_index=i) for n, i in zip(names, indices, strict=True)])
    check_is_clean(card)
    assert ("<summary>The 4 classes</summary>" in card) is is_listed
    assert ("Every class is called as it is numbered, here and in the source: 0 to 3.\n" in card) is not is_listed


def test_own_protocol_is_called_so(render):
    warning = "> **Warning:** quick v1 is NOT of the literature"
    assert render([{}]).count(warning) == 1
    assert render([{}, {"student": "other"}]).count(warning) == 1
    assert "of the literature" not in render([{"standard": True}]) and "NON-STANDARD" not in render([{"standard": True}])
    why = render([{"settings": {"non_standard": "it *is* for smoke runs"}}, {"settings": {"non_standard": ["no", "text"]}}])
    assert r"quick v1 with convnet2 is NOT of the literature: it \*is\* for smoke runs; " in why and why.count(warning) == 1


def test_students_on_all_real_data_stand_in_the_table(render):
    real = {"all real images, hard labels": Score(last=[0.9, 0.91, 0.92], best=[0.95] * 3, best_epoch=[1] * 3)}
    assert "| all real images, hard labels | 91.0 ± 1.0 | convnet2 | quick v1 (NON-STANDARD) | 3 | 95.0 |" in render(
        [{"baselines": real}]
    )


def test_several_teachers_are_listed_with_their_licences(render, full):
    one = full["teacher"]
    other = one.model_copy(update={"id": "org/other", "architecture": "net-b", "revision": None, "license": None})
    several = ensemble_record([one, other], "norm", 0.9912)
    card = render([{"protocol": "rded-soft", "standard": True, "teacher": several}], **{**full, "teacher": several})
    for text in (
        "**Teacher:** 2 networks, whose logits are scaled to one norm and averaged: org/teacher (org/teacher-net), revision",
        "; org/other (net-b), weights sha256 `111111111111`, right on 98.7 % of the test images; together, weights sha256",
        "; they are right on 99.1 % of the test images",
        "| weights of the teacher org/teacher (org/teacher-net) | mit |",
        "| weights of the teacher org/other (net-b) | not stated |",
        "| rded-soft v1, teacher 2 networks: org/teacher, org/other |",
    ):
        assert text in card
    assert several.license is None


def test_a_teacher_that_labelled_the_batches_is_named(render, full):
    card = render([{"protocol": "rded-soft", "standard": True, "teacher": full["teacher"]}])
    assert "| rded-soft v1, teacher org/teacher |" in card


def test_yaml(render, full):
    data = DatasetCard(render(**full)).data.to_dict()
    assert data["license"] == "cc-by-nc-4.0"
    general = ["dataset-distillation", "dataset-condensation", "dataset-compression", "distill-hub"]
    assert data["tags"] == [*general, "synthetic", "cao2", "ipc-2", "source-fish"]
    method = MethodRecord(name="MyMethod", title="Mine", config={})
    assert "mymethod" in DatasetCard(render(method=method)).data.tags  # what `search --method MyMethod` asks for
    # What a list of the Hub tells of it, which has tags of its own, and of people's after those of the card.
    assert read_tags(["license:mit", *general, "synthetic", "cao2", "ipc-2", "source-fish", "mine"]) == Tagged(
        "fish", 2, "cao2"
    )
    assert read_tags(["region:us", "distill-hub", "ipc-many"]) == Tagged(None, None, None)
    assert data["task_categories"] == ["image-classification"]
    assert data["task_ids"] == ["multi-class-image-classification"]  # as in Hugging Face's list of tasks
    assert data["annotations_creators"] == ["machine-generated"]
    assert data["size_categories"] == ["n<1K"]
    assert data["source_datasets"] == ["org/fish"]
    (config,) = data["configs"]
    assert config == DEFAULT
    assert data["dataset_info"]["splits"] == [{"name": "train", "num_bytes": 2_500_000, "num_examples": 6}]
    assert data["pretty_name"] == "fish in 2 images per class, by CaO2"
    hard = render(method=MethodRecord(name="herding", title="Herding", config={}), soft_labels="one-hot")
    assert DatasetCard(hard).data.to_dict()["annotations_creators"] == ["found"]


@pytest.mark.parametrize(
    ("license", "expected"),
    [
        (None, {}),
        ("MIT", {"license": "mit"}),
        ("openrail++", {"license": "openrail++"}),
        ("ImageNet terms + CC-BY-NC-4.0", {"license": "other", "license_name": "imagenet-terms-cc-by-nc-4.0"}),
        ("bsd-", {"license": "other", "license_name": "bsd"}),
    ],
)
def test_license(render, license, expected):
    data = DatasetCard(render(license=license)).data.to_dict()
    assert {key: data[key] for key in ("license", "license_name") if key in data} == expected


def test_source_without_hub_id_is_original(render):
    assert DatasetCard(render()).data.to_dict()["source_datasets"] == ["original"]


def test_bibtex_parses(render, full):
    (text,) = blocks(render(**full), "bibtex")
    library = bibtexparser.parse_string(text)
    assert not library.failed_blocks
    assert [entry.key for entry in library.entries] == ["cao2", "fish"]


@pytest.mark.parametrize(("count", "listed"), [(100, True), (101, False), (1000, False)])
def test_long_class_lists_stay_in_the_manifest(render, count, listed):
    card = render(classes=[ClassRecord(name=f"class {i}", source_index=i) for i in range(count)])
    check_is_clean(card)
    body = card.split("---\n", 2)[2]
    assert ("| 99 | class 99 | 99 |" in body) is listed
    assert ("are listed in [manifest.json](manifest.json)" in body) is not listed
    assert len(body) < 12_000


def test_snippets_run_and_only_the_last_needs_this_package(artifact, python, names):
    card = (artifact / "README.md").read_text(encoding="utf-8")
    assert blocks(card, "bash") == [f"distill-hub evaluate {artifact}\n", f"distill-hub reproduce {artifact}\n"]
    first, batches, stream, last = blocks(card, "python")
    assert f'load_dataset("{artifact}", split="train")' in first
    printed = python(
        f"import sys; sys.modules['distill_hub'] = None\n{first}\n{stream}\n{batches}\n"
        "print(images.dtype, *images.shape, images.max().item() <= 1)\n"
        "print(*labels.shape, soft_labels.dtype, *soft_labels.shape)\n"
        "for column, feature in dataset.features.items(): print(column, feature)\n"
        "print(len(dataset), list(dataset['label']), len(dataset[0]['soft_label']))\n"
        f"del sys.modules['distill_hub']\n{last}"
    ).splitlines()
    assert printed[0].startswith("tench (8, 8) 0.")
    assert printed[1:4] == ["0", "torch.float32 6 3 8 8 True", "6 torch.float32 6 3"]
    assert printed[4:10] == [
        "image Image(mode=None, decode=True)",
        f"label ClassLabel(names={list(names)})",
        "soft_label List(Value('float32'), length=3)",
        "confidence Value('float32')",
        "seed Value('int64')",
        "6 [0, 0, 1, 1, 2, 2] 3",
    ]
    assert printed[10].startswith("['tench', ")


@pytest.mark.parametrize("name", SOURCES)
def test_citations_of_sources_parse(name):
    library = bibtexparser.parse_string(SOURCES[name])
    assert not library.failed_blocks and len(library.entries) == 1
    assert {"title", "author", "year"} <= library.entries[0].fields_dict.keys()


def test_known_sources_are_cited():
    assert {known.hub_id or name for name, known in KNOWN.items()} == SOURCES.keys()
    assert "alpaydin" in source_record(load_source("digits")).bibtex


def test_card_is_a_pure_function(render, full):
    assert render([{}], **full) == render([{}], **full)


def test_a_path_of_the_author_s_is_not_on_the_card(render, build_manifest):
    source = build_manifest()("0" * 64).source.model_copy(update={"name": "/home/alice/secret/My Fish_2"})
    card = render(source=source, pictures=["assets/preview.png"])
    assert "secret" not in card and "my-fish-2" in card
