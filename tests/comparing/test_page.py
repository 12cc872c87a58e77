"""The page of a comparison: it holds strangers' text, loads nothing, and can be read by everyone."""

import base64
import dataclasses
import hashlib
import io
import itertools
import json
import re
from collections import Counter
from pathlib import Path

import PIL.Image
import pytest
from compared import Page, run, score, shown, teacher

from distill_hub.artifact import find
from distill_hub.artifact.records import DDRanking
from distill_hub.comparing.compare import compare, read_sets
from distill_hub.comparing.page import THEMES, render_page
from distill_hub.comparing.plot import SERIES
from distill_hub.config import InputError
from distill_hub.hub import RemoteSet
from distill_hub.publishing.markdown import web_address


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
    (_, title), *marks = parsed.all("title")
    assert len(marks) == 5 and marks[2][1].startswith("three, 2 images per class: 50.0 ± 0.0")
    ((_, heading),) = parsed.all("h1")
    assert title == heading == "3 distilled sets compared"
    ids = [attributes["id"] for _, attributes, _ in parsed.elements if "id" in attributes]
    assert len(ids) == len(set(ids)) > 5
    labels = [attributes["aria-labelledby"] for _, attributes, _ in parsed.elements if "aria-labelledby" in attributes]
    assert labels and set(" ".join(labels).split()) <= set(ids)
    levels = [int(tag[1]) for tag, _, _ in parsed.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and all(after - before <= 1 for before, after in itertools.pairwise(levels))
    images = parsed.all("img")
    assert len(images) == 2  # a preview for each set that has one
    assert all(len(attributes["alt"]) > 20 for attributes, _ in images)
    plots = [attributes["aria-label"] for attributes, _ in parsed.all("svg") if attributes.get("role") == "img"]
    assert len(plots) == 2  # for each student
    assert "one, by bob (unconfirmed), 2 images per class: 60.0 ± 10.0 (random real 40.0 ± 10.0)" in plots[0]
    assert "The set has no preview." in page and "a corrected set is at org/three." in page
    assert len(parsed.all("caption")) == len(parsed.all("table")) == 2
    assert {attributes["scope"] for attributes, _ in parsed.all("th")} == {"col", "row", "rowgroup"}
    # A table that is wider than the window can be scrolled with the keyboard.
    regions = [attributes for attributes, _ in parsed.all("div") if attributes.get("role") == "region"]
    assert [attributes["tabindex"] for attributes in regions] == ["0", "0"]


def test_every_column_has_a_button_and_says_how_it_is_sorted(page):
    heads = [attributes for attributes, _ in Page(page).all("th") if attributes["scope"] == "col"]
    buttons = Page(page).all("button")
    assert len(heads) == len(buttons) == 14 + 9
    # Without JavaScript a button can do nothing, and says so.
    assert all(attributes == {"type": "button", "disabled": None} for attributes, _ in buttons)
    names = [name for _, name in buttons]
    assert names[:5] == ["set", "last, %", "vs. random", "p", "vs. claim"]
    assert [head["aria-sort"] for head in heads] == ["descending" if name == "last, %" else "none" for name in names]
    values = [float(cell["data-value"]) for cell, text in Page(page).all("td") if "±" in text]
    # Of the first student: two images per class, claimed and measured by somebody else; then five.
    assert values[:4] == pytest.approx([0.6, 0.5, 0.6, 0.6])
    # What there is none of has no value, so that it is sorted last.
    assert all(
        "data-value" not in cell for cell, text in Page(page).all("td") if text in ("-", "author", "bob (unconfirmed)")
    )


def loaded(parsed: Page) -> list[str]:
    """Every address that a browser would ask for by itself."""
    names = ("src", "srcset", "data", "poster", "background", "action", "formaction", "xlink:href")
    return [value for _, attributes, _ in parsed.elements for name, value in attributes.items() if name in names]


def test_the_page_loads_nothing(page):
    parsed = Page(page)
    assert loaded(parsed) and all(re.match("data:image/webp;base64,", address) for address in loaded(parsed))
    assert not parsed.all("link", "iframe", "object", "embed", "base", "form")
    ((_, style),) = parsed.all("style")
    assert "url(" not in style and "@import" not in style
    ((attributes, script),) = parsed.all("script")
    assert attributes == {} and not re.search("fetch|import|http|eval|innerHTML", script)
    policy = next(a["content"] for a, _ in parsed.all("meta") if a.get("http-equiv") == "Content-Security-Policy")
    own = base64.b64encode(hashlib.sha256(re.search("<script>(.*)</script>", page, re.DOTALL)[1].encode()).digest()).decode()
    assert "default-src 'none'" in policy and f"script-src 'sha256-{own}'" in policy


def test_pictures_are_decoded_and_encoded_anew_and_come_when_they_are_looked_at(page):
    pictures = [base64.b64decode(address.removeprefix("data:image/webp;base64,")) for address in loaded(Page(page))]
    assert len(pictures) == 2
    for content in pictures:
        image = PIL.Image.open(io.BytesIO(content))
        assert image.format == "WEBP" and image.size == (420, 21)
        red, *others = image.convert("RGB").getpixel((200, 10))
        assert red > 245 and max(others) < 10
        assert b"said a stranger" not in content
    shown = [(a["width"], a["height"], a["loading"]) for a, _ in Page(page).all("img")]
    assert shown == [("420", "21", "lazy")] * 2


def test_many_sets_have_small_pictures_or_none(make_set):
    (own,) = read_sets([make_set("one")])
    PIL.Image.new("RGB", (150, 300)).save(Path(own.found.location, "assets", "preview.png"))
    many = [dataclasses.replace(own, label=f"set-{i}") for i in range(121)]
    page = render_page(many, [])
    sizes = [(int(a["width"]), int(a["height"])) for a, _ in Page(page).all("img")]
    assert sizes == [(70, 141)] * 120  # 1.2 million pixels
    assert page.count("Its preview is not shown: there are many sets.") == 1


def test_where_no_set_has_a_picture_none_is_missed(make_set):
    sets = read_sets([make_set("one", preview=False), make_set("two", preview=False)])
    assert "preview" not in render_page(sets, compare(sets))


def test_rows_of_many_sets_can_be_narrowed_by_method_and_size(make_set, page):
    sets = read_sets([make_set(f"set-{i}", preview=False, ipc=(10, 2)[i % 2]) for i in range(10)])
    parsed = Page(render_page(sets, compare(sets)))
    assert [text for _, text in parsed.all("option")] == ["all", "2", "10"]
    named = [(tag, a["data-method"], a["data-size"]) for tag, a, _ in parsed.elements if "data-method" in a]
    assert Counter(named) == {(tag, "CaO2", size): 5 for tag in ("tr", "article") for size in ("2", "10")}
    (box,) = [attributes for attributes, _ in parsed.all("div") if attributes.get("id") == "filter"]
    assert "hidden" in box  # until the script shows it
    assert not Page(page).all("input", "select")  # of three sets all can be seen


def test_the_same_sets_make_the_same_page(make_set):
    sets = read_sets([make_set("again")])
    assert render_page(sets, compare(sets)) == render_page(sets, compare(sets))


def test_the_title_is_that_given(make_set):
    parsed = Page(render_page(read_sets([make_set("one")]), [], title="A <b>board"))
    assert [text for _, text in parsed.all("title", "h1")] == ["A <b>board"] * 2 and not parsed.all("b")


def bodies(parsed: Page) -> list[list[str]]:
    """What the rows of each part of the tables say first; of the line above them, all."""
    found = []
    for tag, attributes, text in parsed.elements:
        if tag == "tbody":
            found.append([])
        elif tag == "th" and attributes["scope"] != "col":
            found[-1].append("".join(text).strip())
    return found


def test_claims_and_measurements_are_apart_and_every_size_is(page):
    one, other = "claimed by the authors", "measured by others"
    assert bodies(Page(page)) == [
        [f"2 images per class, {one}", "one#", "three#"],
        [f"2 images per class, {other}", "one#"],
        [f"5 images per class, {one}", "two#"],
        [f"5 images per class, {one}", "two#"],
    ]


def test_every_row_has_a_link_that_says_what_it_is(page, make_set):
    parsed = Page(page)
    rows = [attributes["id"] for attributes, _ in parsed.all("tr") if "id" in attributes]
    assert rows == [
        "one-quick-convnet2-20260102T030405Z",
        "three-quick-convnet2-20260102T030405Z",
        "one-quick-convnet2-20260102T030405Z-bob",
        "two-quick-convnet2-20260102T030405Z",
        "two-quick-convnet3-20260102T030405Z",
    ]
    ids = {attributes.get("id") for _, attributes, _ in parsed.elements}
    links = {attributes["href"][1:] for attributes, _ in parsed.all("a") if attributes["href"].startswith("#")}
    assert set(rows) < links <= ids
    # With more sets beside them, the same rows have the same links.
    sets = read_sets([make_set("before"), make_set("one", {}, {"submitted_by": "bob"})])
    again = {attributes.get("id") for _, attributes, _ in Page(render_page(sets, compare(sets))).elements}
    assert {rows[0], rows[2]} < again


def test_a_page_of_many_tables_lists_them(page, make_set):
    assert not Page(page).all("nav")
    sets = read_sets([make_set("one", {}, {"student": "b"}, {"student": "c"})])
    text = Page(render_page(sets, compare(sets))).all("nav")[0][1]
    assert "quick v1 (NON-STANDARD) · b: IPC 2" in " ".join(text.split())


def test_equal_sets_name_each_other_and_marks_are_text(make_set):
    flat = {"score": score(0.3, 0.3, 0.3)}
    one, two = Path(make_set("one", flat)), Path(make_set("two"))
    manifest = (two / "manifest.json").read_text()
    (two / "manifest.json").write_text(manifest.replace(f"{2:064x}", f"{1:064x}"))
    sets = read_sets([str(one), str(two)])
    parsed = Page(render_page(sets, compare(sets)))
    assert [text for attributes, text in parsed.all("a") if attributes["href"] == "#set-two"] == ["two"]
    assert [text for attributes, text in parsed.all("a") if attributes["href"] == "#set-one"] == [
        "one"
    ] * 2  # from its row, too
    assert [text for _, text in parsed.all("small")] == ["collapsed", "baseline collapsed"]
    assert parsed.all("summary")[0][1] == "3 warnings: students collapsed, sets are below random real images"


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
    assert fault in page and not Page(page).all("img") and folder not in page


def test_a_preview_that_arrives_altered_is_left_out(make_set, monkeypatch):
    (own,) = read_sets([make_set("one")])

    def fetch(*_, **__):
        raise InputError("repository", "org/one", "assets/preview.png arrives altered")

    monkeypatch.setattr(find, "fetch", fetch)
    remote = RemoteSet("org/one", "c" * 40, False, {})
    own = dataclasses.replace(own, found=dataclasses.replace(own.found, remote=remote))
    assert "Its preview cannot be shown" in render_page([own], [])


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
    links = [(attributes, text) for attributes, text in Page(page).all("a") if not attributes["href"].startswith("#")]
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
