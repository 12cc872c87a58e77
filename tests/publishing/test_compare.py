"""What compares and what does not, the numbers, and a page that holds strangers' text and loads nothing."""

import base64
import dataclasses
import hashlib
import html.parser
import io
import itertools
import json
import re
import sys
import unittest.mock
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import PIL.Image
import PIL.PngImagePlugin
import pytest
import scipy.stats
from rich.console import Console

from distill_hub import cli
from distill_hub.artifact import find
from distill_hub.artifact.manifest import ModelRecord, StageRecord
from distill_hub.artifact.records import DDRanking, Score
from distill_hub.config import parse
from distill_hub.hub import RemoteFile, RemoteSet
from distill_hub.options.commands import CompareConfig
from distill_hub.publishing.compare import compare, explain, group_table, pooled, read_sets
from distill_hub.publishing.compare_page import SERIES, THEMES, render_page, web_address


def score(*last: float) -> Score:
    return Score(last=list(last), best=[min(1.0, value + 0.1) for value in last], best_epoch=[1] * len(last))


def teacher(letter: str) -> ModelRecord:
    return ModelRecord(id="fitted on digits", architecture="net", sha256=letter * 64)


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


def groups_of(*folders):
    return compare(read_sets(folders))


def shown(groups, width=100) -> str:
    console = Console(width=width, file=io.StringIO(), color_system=None)
    for group in groups:
        console.print(group_table(group), highlight=False, soft_wrap=True)
    return console.file.getvalue()


def run(*words) -> None:
    with unittest.mock.patch.object(sys, "argv", ["distill-hub", "compare", *words]):
        cli.main()


# What compares.


def test_rows_of_one_protocol_and_student_are_one_group_best_first(make_set):
    records = [{"seeds": [0, 1], "score": score(mean, mean), "baselines": {}} for mean in (0.4, 0.9, 0.6)]
    folders = [make_set(f"set-{i}", record) for i, record in enumerate(records)]
    (group,) = groups_of(*folders)
    assert [row.set.label for row in group.rows] == ["set-1", "set-2", "set-0"]
    assert group.title == "fish · quick v1 (non-standard) · convnet2"
    assert group.notes == []


@pytest.mark.parametrize(
    "record",
    [{"protocol": "other"}, {"protocol_version": 2}, {"student": "convnet3"}, {"teacher": teacher("a")}],
)
def test_another_protocol_version_student_or_teacher_is_another_group(make_set, record):
    one, two = groups_of(make_set("one"), make_set("two", record))
    assert [row.set.label for group in (one, two) for row in group.rows] == ["one", "two"]
    assert one.title != two.title
    assert one.notes == two.notes == ["There is nothing here to compare it with."]


def test_another_source_split_or_choice_of_classes_is_another_group_under_another_title(make_set, build_manifest):
    usual = build_manifest()("0" * 64)
    sources = [{"fingerprint": "f" * 64}, {"test_split": "validation"}, {"test_fraction": 0.25}]
    others = [{"source": usual.source.model_copy(update=change)} for change in sources]
    others.append({"classes": [c.model_copy(update={"source_index": c.source_index + 1}) for c in usual.classes]})
    folders = [make_set(f"set-{i}", **fields) for i, fields in enumerate([{}, *others])]
    groups = groups_of(*folders)
    assert [len(group.rows) for group in groups] == [1] * 5
    assert groups[1].title.endswith("3 classes of ffffffff, split test")
    assert groups[3].title.endswith("3 classes of 00000000, split test, 25% held out")
    # The same classes in another order, on which a set's own labels depend, are the same test.
    turned = make_set("turned", classes=list(reversed(usual.classes)))
    assert len(groups_of(folders[0], turned)) == 1


def test_labels_of_another_teacher_do_not_compare_stored_or_not(make_set, with_views, make_evaluation):
    soft = {"settings": {"labels": "soft"}, "protocol": "kd"}
    folders = [make_set(f"set-{i}", soft, teacher=teacher(letter)) for i, letter in enumerate("aab")]
    one, two = groups_of(*folders)
    assert (len(one.rows), len(two.rows)) == (2, 1)
    assert one.title.endswith("labels of fitted on digits (aaaaaaaa)")
    # Hard labels are the source's own: the teacher in the manifest has no part in them.
    assert len(groups_of(*(make_set(f"hard-{i}", teacher=teacher(letter)) for i, letter in enumerate("ab")))) == 1
    # Stored views have the labels of whoever is on record for them.
    manifest = json.loads((with_views / "manifest.json").read_text())
    for name, sha256 in (("now", manifest["views"]["sha256"]), ("before", "e" * 64)):
        record = make_evaluation(manifest["content_sha256"], protocol="fkd", views_sha256=sha256)
        (with_views / "evaluations" / f"{name}.json").write_text(record.to_json())
    titles = [group.title for group in groups_of(str(with_views))]
    assert {t.split("labels of ")[1] for t in titles if "fkd" in t} == {
        "labeller (22222222)",
        "stored views that are not there any more (eeeeeeee)",
    }


def test_a_claim_and_a_measurement_are_two_rows(make_set):
    measured = {"score": score(0.2, 0.2, 0.2), "submitted_by": "bob"}
    (group,) = groups_of(make_set("one", {}, measured))
    assert [(row.record.submitted_by, round(row.record.score.mean, 3)) for row in group.rows] == [(None, 0.6), ("bob", 0.2)]
    text = shown([group])
    assert " by " in text and " author " in text and " bob " in text
    assert " by " not in shown(groups_of(make_set("two")))


def test_a_record_of_an_earlier_content_is_none(make_set):
    folder = Path(make_set("one"))
    record = json.loads((folder / "evaluations" / "0.json").read_text())
    (folder / "evaluations" / "0.json").write_text(json.dumps(record | {"content_sha256": "9" * 64}))
    sets = read_sets([str(folder)])
    assert compare(sets) == []
    assert "No evaluation record of its present content: one" in explain(sets, []).plain
    assert "No evaluation record of their present content is there: one." in render_page(sets, [])


def test_what_does_not_compare_within_a_group_is_said(make_set, build_manifest):
    slow = build_manifest()("0" * 64).environment.model_copy(update={"hardware": "slow CPU", "processes": 2})
    ranks = [DDRanking(lrs=0.3, ars=0.3, real_accuracy=real) for real in (0.9, 0.8)]
    (group,) = groups_of(
        make_set("one", {"settings": {"image_size": 8}, "dd_ranking": ranks[0]}),
        make_set("two", {"settings": {"image_size": 16}, "dd_ranking": ranks[1]}, environment=slow, ipc=5),
    )
    assert group.notes == [
        "Accuracies compare at the same number of images per class (IPC) only.",
        "Accuracies: students saw images of 8 and 16 pixels a side.",
        "Minutes and memory do not compare: they were taken on 1 x CPU, 1 process and slow CPU, 2 processes.",
        "LRS does not compare: accuracies on all real data were 0.8 and 0.9.",
    ]


# Numbers.


def test_welch_s_test_by_hand_and_by_the_accuracies(make_set):
    numbers = itertools.count()

    def row(own, random):
        record = {"seeds": list(range(len(own))), "score": score(*own), "baselines": {"random real": score(*random)}}
        (group,) = groups_of(make_set(f"set-{next(numbers)}", record))
        return group.rows[0]

    # t = 0.2 / sqrt(0.01/3 + 0.01/3), so t^2 = 6 with 4 degrees of freedom, where p = 1 - t (t^2 + 6) / (t^2 + 4)^1.5.
    even = row((0.5, 0.6, 0.7), (0.3, 0.4, 0.5))
    assert even.difference == pytest.approx(0.2)
    assert even.p_value == pytest.approx(1 - 6**0.5 * 12 / 10**1.5)
    own, random = (0.91, 0.93, 0.9, 0.94), (0.7, 0.9, 0.8, 0.95)
    assert row(own, random).p_value == pytest.approx(scipy.stats.ttest_ind(own, random, equal_var=False).pvalue)
    assert row(own, random).p_value != pytest.approx(scipy.stats.ttest_ind(own, random).pvalue)  # Student's
    assert row((0.9,), (0.5,)).p_value is None and row((0.9,), (0.5,)).difference == pytest.approx(0.4)
    assert row((0.9, 0.9), (0.5, 0.5)).p_value is None
    assert row((0.9, 0.9), (0.5, 0.6)).p_value == pytest.approx(scipy.stats.ttest_1samp((0.5, 0.6), 0.9).pvalue)


def test_what_the_terminal_shows_fits_100_columns(make_set):
    stages = [StageRecord(name=n, items=1, seconds=s) for n, s in (("fit", 60.0), ("sample", 45.5))]
    one = make_set("imagewoof-ipc10-minimax", stages=stages)
    lone = {"seeds": [0], "score": score(0.25), "baselines": {}, "submitted_by": "bob"}
    other = make_set("other", lone, stages=[], environment=None)
    text = shown(groups_of(one, other))
    assert max(map(len, text.splitlines())) <= 100
    lines = [line.split() for line in text.splitlines()]
    # 0.5, 0.6, 0.7; their best looks; 20 points over random; p by hand above; 12,345 bytes; 105.5 s; 1.3e9 bytes
    assert "imagewoof-ipc10-minimax author 2 60.0 ± 10.0 70.0 3 +20.0 0.070 0.01 1.76 1.3 cpu".split() in lines
    assert "other bob 2 25.0 ± - 35.0 1 - - 0.01 - -".split() in lines


def test_the_same_accuracies_from_two_records_count_once():
    assert pooled([score(0.1, 0.2), score(0.1, 0.2), score(0.3)]) == pytest.approx((0.2, 0.1))
    assert pooled([score(0.4)]) == (0.4, 0.0)


def test_the_json_file_has_unrounded_numbers(make_set, tmp_path, capsys):
    ranking = DDRanking(lrs=0.25, ars=0.5, real_accuracy=0.9)
    run(make_set("one", {"dd_ranking": ranking}), "--json", str(tmp_path / "new" / "rows.json"))
    (group,) = json.loads((tmp_path / "new" / "rows.json").read_text())
    assert (group["source"], group["protocol"], group["protocol_version"], group["student"]) == (
        "fish",
        "quick",
        1,
        "convnet2",
    )
    (row,) = group["rows"]
    numbers = {
        "mean": 0.6,
        "std": 0.1,
        "best_mean": 0.7,
        "random_real_mean": 0.4,
        "difference": 0.2,
        "lrs": 0.25,
        "ars": 0.5,
    }
    numbers |= {"p_value": 1 - 6**0.5 * 12 / 10**1.5, "seconds": 75.0, "data_bytes": 12_345, "ipc": 2}
    assert {name: row[name] for name in numbers} == pytest.approx(numbers)
    assert row["peak_memory_bytes"] == {"cpu": 1_300_000_000} and row["submitted_by"] is None
    assert "LRS: DD-Ranking's label-robust score" in capsys.readouterr().out


# Bad input.


def test_sets_are_one_or_more_words():
    config = parse(CompareConfig, ["a", "org/b", "c", "--html", "x.html"])
    assert config == CompareConfig(locations=["a", "org/b", "c"], html=Path("x.html"))
    assert parse(CompareConfig, ["--json", "x.json", "a"]) == CompareConfig(locations=["a"], json=Path("x.json"))


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        ([], "locations"),
        (["nowhere"], "there is no such folder, and it is not a Hub id"),
        (["org/nowhere"], "HF_HUB_OFFLINE"),
        (["SET", "EMPTY"], "it holds no manifest.json; `distill-hub adopt` brings a set made elsewhere into this format"),
        (["SET", "FILE"], "it holds no manifest.json"),
        (["SET", "--html", "EMPTY"], "it is a folder; name a file in it"),
        (["SET", "--html", "FILE/page.html"], "nothing can be written in"),
        (["SET", "--json", "/proc/nowhere/rows.json"], "nothing can be written in /proc"),
        (["SET", "--htm", "page.html"], "there is no option --htm (did you mean 'html'?)"),
    ],
)
def test_bad_input_is_refused_in_one_line(make_set, tmp_path, capsys, words, reason):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    places = {"SET": make_set("one"), "EMPTY": str(tmp_path / "empty"), "FILE": str(tmp_path / "file")}
    with pytest.raises(SystemExit) as exit:
        run(*(re.sub("SET|EMPTY|FILE", lambda found: places[found[0]], word) for word in words))
    assert exit.value.code == 2
    out, error = capsys.readouterr()
    assert error.startswith("error: ") and error.count("\n") == 1 and reason in error
    assert out == ""


def test_a_set_named_twice_is_read_once_and_two_of_a_name_are_told_apart(make_set, tmp_path):
    one = make_set("one")
    assert len(read_sets([one, one])) == 1
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "manifest.json").write_bytes(Path(one, "manifest.json").read_bytes())
    assert [own.label for own in read_sets([one, str(tmp_path / "copy")])] == [one, str(tmp_path / "copy")]


# The page.


class Page(html.parser.HTMLParser):
    """A page's elements, every one of them closed where it must be."""

    VOID = ("meta", "img", "source", "link", "br", "input", "base")

    def __init__(self, text: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None], list[str]]] = []  # tag, attributes, text inside
        self.open: list[int] = []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attributes):
        assert len(dict(attributes)) == len(attributes)
        self.elements.append((tag, dict(attributes), []))
        if tag not in self.VOID:
            self.open.append(len(self.elements) - 1)

    def handle_endtag(self, tag):
        assert self.elements[self.open.pop()][0] == tag

    def handle_data(self, data):
        for index in self.open:
            self.elements[index][2].append(data)

    def all(self, *tags):
        return [(attributes, "".join(text).strip()) for tag, attributes, text in self.elements if tag in tags]


@pytest.fixture(scope="module")
def pages():
    return {}


@pytest.fixture
def page(pages, make_set):
    """Three sets on one page, written once for all tests."""
    if pages:
        return pages["text"]
    ranking = DDRanking(lrs=0.25, ars=0.5, real_accuracy=0.9)
    folders = [
        make_set("one", {}, {"submitted_by": "bob", "dd_ranking": ranking}),
        make_set("two", {}, {"student": "convnet3"}, ipc=5, superseded_by="org/three"),
        make_set("three", {"seeds": [0], "score": score(0.5), "baselines": {}}, preview=False),
    ]
    sets = read_sets(folders)
    pages["text"] = render_page(sets, compare(sets))
    return pages["text"]


def test_the_page_is_well_formed_and_can_be_read_by_everyone(page):
    parsed = Page(page)
    assert page.startswith('<!doctype html>\n<html lang="en">')
    ((_, title),) = parsed.all("title")
    ((_, heading),) = parsed.all("h1")
    assert title == heading == "3 distilled sets compared"
    ids = [attributes["id"] for _, attributes, _ in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) > 5
    labels = [attributes["aria-labelledby"] for _, attributes, _ in parsed.elements if "aria-labelledby" in attributes]
    assert labels and set(" ".join(labels).split()) <= set(ids)
    levels = [int(tag[1]) for tag, _, _ in parsed.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(after - before <= 1 for before, after in itertools.pairwise(levels))
    images = parsed.all("img")
    assert len(images) == 2 + 2  # a plot for each student, a preview for each set that has one
    assert all(len(attributes["alt"]) > 20 for attributes, _ in images)
    assert "one, by bob, 2 images per class: 60.0 ± 10.0 (random real 40.0 ± 10.0)" in images[0][0]["alt"]
    assert "The set has no preview." in page and "a corrected set is at org/three." in page
    assert len(parsed.all("caption")) == len(parsed.all("table")) == 2
    assert {attributes["scope"] for attributes, _ in parsed.all("th")} == {"col", "row"}
    # A table that is wider than the window can be scrolled with the keyboard.
    regions = [attributes for attributes, _ in parsed.all("div") if attributes.get("role") == "region"]
    assert [attributes["tabindex"] for attributes in regions] == ["0", "0"]


def test_every_column_has_a_button_and_says_how_it_is_sorted(page):
    heads = [attributes for attributes, _ in Page(page).all("th") if attributes["scope"] == "col"]
    buttons = Page(page).all("button")
    assert len(heads) == len(buttons) == 13 + 10
    # Without JavaScript a button can do nothing, and says so.
    assert all(attributes == {"type": "button", "disabled": None} for attributes, _ in buttons)
    names = [name for _, name in buttons]
    assert names[:5] == ["set", "by", "IPC", "last, %", "best look"]
    assert [head["aria-sort"] for head in heads] == ["descending" if name == "last, %" else "none" for name in names]
    values = [float(cell["data-value"]) for cell, text in Page(page).all("td") if "±" in text]
    assert values[:4] == sorted(values[:4], reverse=True) == pytest.approx([0.6, 0.6, 0.6, 0.5])
    # What there is none of has no value, so that it is sorted last.
    assert all("data-value" not in cell for cell, text in Page(page).all("td") if text in ("-", "author", "bob"))


def loaded(parsed: Page) -> list[str]:
    """Every address that a browser would ask for by itself."""
    names = ("src", "srcset", "data", "poster", "background", "action", "formaction", "xlink:href")
    return [value for _, attributes, _ in parsed.elements for name, value in attributes.items() if name in names]


def test_the_page_loads_nothing(page):
    parsed = Page(page)
    assert loaded(parsed) and all(re.match("data:image/(png|svg[+]xml);base64,", address) for address in loaded(parsed))
    assert not parsed.all("link", "iframe", "object", "embed", "base", "form")
    ((_, style),) = parsed.all("style")
    assert "url(" not in style and "@import" not in style
    ((attributes, script),) = parsed.all("script")
    assert attributes == {} and not re.search("fetch|import|http|eval|innerHTML", script)
    policy = next(a["content"] for a, _ in parsed.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    own = base64.b64encode(hashlib.sha256(re.search("<script>(.*)</script>", page, re.DOTALL)[1].encode()).digest()).decode()
    assert "default-src 'none'" in policy and f"script-src 'sha256-{own}'" in policy


def test_pictures_are_decoded_and_encoded_anew_and_plots_are_drawn_for_both_themes(page, make_set):
    pictures = {kind: [] for kind in ("png", "svg+xml")}
    for address in loaded(Page(page)):
        kind, content = re.fullmatch("data:image/(.*);base64,(.*)", address).groups()
        pictures[kind].append(base64.b64decode(content))
    for content in pictures["png"]:
        image = PIL.Image.open(io.BytesIO(content))
        assert image.size == (900, 45) and image.getpixel((0, 0)) == (255, 0, 0)
        assert b"said a stranger" not in content and image.info == {}
    sizes = [(a["width"], a["height"]) for a, _ in Page(page).all("img") if "width" in a]
    assert sizes == [("900", "45")] * 2
    assert len(set(pictures["svg+xml"])) == 4
    for drawing in pictures["svg+xml"]:
        tags = {element.tag.split("}")[1] for element in ElementTree.fromstring(drawing).iter()}
        assert "path" in tags and not tags & {"script", "image", "text", "foreignObject", "a"}
    sets = read_sets([make_set("again")])
    assert render_page(sets, compare(sets)) == render_page(sets, compare(sets))


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"<svg onload='alert(1)'/>", "Its preview cannot be shown"),
        (b"\x89PNG\r\n\x1a\n" + b"0" * 40, "Its preview cannot be shown"),
        (b"GIF89a" + b"0" * 40, "Its preview cannot be shown"),
        (b"0" * 20_000_001, "Its preview is not shown: it has 20,000,001 bytes."),
    ],
)
def test_a_preview_that_is_none_is_left_out_and_that_is_said(make_set, content, fault):
    folder = make_set("one")
    Path(folder, "assets", "preview.png").write_bytes(content)
    page = render_page(read_sets([folder]), [])
    assert fault in page and not Page(page).all("img")


def test_a_preview_of_too_many_pixels_is_left_out(make_set):
    folder = make_set("one")
    PIL.Image.new("1", (5001, 5000)).save(Path(folder, "assets", "preview.png"))
    assert "it has 5001 x 5000 pixels" in render_page(read_sets([folder]), [])


BAD = "</style></script><script>alert(1)</script>\"'><img src=x onerror=alert(1)>{{ 7 * 7 }}$x^2$\u202e\x1b[31m&amp;"


def test_a_stranger_s_text_stays_text(make_set, build_manifest, capsys):
    usual = build_manifest()("0" * 64)
    model = teacher("a")
    folders, pages = [], []
    for word in ("plain", BAD):
        fields = {
            "method": usual.method.model_copy(update={"title": word}),
            "source": usual.source.model_copy(update={"name": word, "hub_id": word, "test_split": word}),
            "environment": usual.environment.model_copy(update={"hardware": word}),
            "teacher": model.model_copy(update={"id": word, "revision": word}),
            "generator": model.model_copy(update={"id": word, "revision": word}),
            "license": word,
            "superseded_by": word,
        }
        record = {"teacher": fields["teacher"]}
        folders.append(make_set(f"set-{len(folders)}", record, {"student": "other"}, **fields))
        sets = read_sets(folders[-1:])
        groups = compare(sets)
        pages.append(render_page(sets, groups))
        text = shown(groups, width=1000)
    assert "\x1b" not in text and "\u202e" not in text and "[31m&amp;" in text
    plain, bad = map(Page, pages)
    assert [(tag, attributes.keys()) for tag, attributes, _ in bad.elements] == [
        (tag, attributes.keys()) for tag, attributes, _ in plain.elements
    ]
    assert "\x1b" not in pages[1] and "\u202e" not in pages[1]
    assert "{{ 7 * 7 }}" in pages[1]
    read = BAD.replace("\x1b", "?").replace("\u202e", "?")
    assert [text for _, text in bad.all("dd")].count(read) == 5  # source, generator, teacher, licence, made on
    assert any(text.startswith(read) for _, text in bad.all("dd"))  # the method, with a link behind it


@pytest.mark.parametrize(
    "address",
    [
        "javascript:alert(1)", "JavaScript:alert(1)//https://arxiv.org", " https://arxiv.org", "https:arxiv.org",
        "//arxiv.org", "data:text/html,x", "https://user:word@arxiv.org/x", "https://arxiv.org\\@evil.org", "https://",
        "ftp://arxiv.org", None, "https://arxiv.org/x y", "https://arxiv.org/\nx", "vbscript:x", "https://-x.org",
    ],
)  # fmt: skip
def test_only_web_addresses_become_links(address):
    assert web_address(address) is None


def test_a_link_goes_to_the_paper_or_the_hub_and_tells_neither_who_sent_it(page, make_set, build_manifest, capsys):
    links = Page(page).all("a")
    assert {attributes["href"] for attributes, _ in links} == {"https://arxiv.org/abs/2506.22637"}
    assert all("noopener" in attributes["rel"] and "noreferrer" in attributes["rel"] for attributes, _ in links)
    assert web_address("http://www.example.org:80/a?b=c#d") == "http://www.example.org:80/a?b=c#d"
    # A manifest with any other address is refused when it is read.
    folder = Path(make_set("bad"))
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["method"]["paper"] = "javascript:alert(1)"
    (folder / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SystemExit):
        run(str(folder))
    assert capsys.readouterr().err.startswith("error: manifest.json: method.paper: 'javascript:alert(1)' cannot be used")
    # And if one were taken, it would be no link.
    (own,) = read_sets([make_set("good")])
    method = own.manifest.method.model_copy(update={"paper": "javascript:alert(1)"})
    own = dataclasses.replace(own, manifest=own.manifest.model_copy(update={"method": method}))
    assert "javascript:" not in render_page([own], []) and not Page(render_page([own], [])).all("a")


def luminance(colour: str) -> float:
    """Relative luminance of WCAG 2.2."""
    channels = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_contrast_is_enough_in_light_and_dark(page):
    assert contrast("#ffffff", "#000000") == pytest.approx(21)
    assert contrast("#777777", "#ffffff") == pytest.approx(4.48, abs=0.005)
    for theme in THEMES.values():
        for ground in (theme["background"], theme["panel"]):
            assert min(contrast(theme[name], ground) for name in ("text", "faint", "link")) >= 4.5
        assert min(contrast(colour, theme["background"]) for colour in (theme["line"], *SERIES)) >= 3
    # The page has no colours but these, and every one of both themes.
    ((_, style),) = Page(page).all("style")
    assert set(re.findall("#[0-9a-f]{3,8}", style)) == {colour for theme in THEMES.values() for colour in theme.values()}
    assert len(set(SERIES)) == 7


# On the Hub.


def test_of_a_set_on_the_hub_only_manifest_records_and_preview_are_asked_for(make_set, monkeypatch):
    folder = Path(make_set("one"))
    names = [str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file()]
    remote = RemoteSet("org/one", "c" * 40, False, {name: RemoteFile((folder / name).stat().st_size) for name in names})
    asked = []

    def fetch(remote, names, *, most_bytes):
        asked.extend(names)
        return folder

    monkeypatch.setattr(find, "look", lambda location, revision: remote)
    monkeypatch.setattr(find, "fetch", fetch)
    sets = read_sets(["org/one"])
    groups = compare(sets)
    page = Page(render_page(sets, groups))
    assert sorted(asked) == ["assets/preview.png", "evaluations/0.json", "manifest.json"]
    assert "data/train-00000-of-00001.parquet" in names and groups[0].rows[0].as_json()["data_bytes"] == 12_345
    assert groups[0].rows[0].as_json()["commit"] == "c" * 40
    (link,) = (attributes["href"] for attributes, name in page.all("a") if name == "one")
    assert link == "https://huggingface.co/datasets/org/one"
