"""Text of strangers in cards: escaped by what the place is."""

import re

import pytest

from distill_hub.artifact.find import find, read_description
from distill_hub.artifact.manifest import ClassRecord, Manifest
from distill_hub.parsing import front_matter
from distill_hub.publishing.card import render_card
from distill_hub.publishing.markdown import code, fenced, link, plain, web_address

HOSTILE = (
    "<script>alert(1)</script>",
    "![x](https://evil.example/x.png)",
    "[x](javascript:alert(1))",
    "`x` | y",
    "```\n<img src=x>\n```",
    "a\n\n# Heading\n\n---\n",
    "https://evil.example www.evil.example me@evil.example",
    "**bold** _so_ $x$ ~~y~~",
    "&lt;b&gt;",
    "\x1b[2J\u202eabc",
)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("Old | English <sheepdog>", r"Old \| English &lt;sheepdog>"),
        ("![x](y)", r"!\[x\](y)"),
        ("convnet-2_x.1 a_b", "convnet-2_x.1 a_b"),
        ("_x_ *y* `z` ~w~ $m$", r"\_x\_ \*y\* \`z\` \~w\~ \$m\$"),
        ("&amp;", "&amp;amp;"),
        ("# x", r"\# x"),
        ("1. x", r"1\. x"),
        ("- x", r"\- x"),
        ("---", r"\---"),
        ("3.12.1", "3.12.1"),
        ("http://a WWW.b c@d", r"http\://a WWW\.b c\@d"),
        ("a\n b\u202e", "a b?"),
        ("château 画像", "château 画像"),
    ],
)
def test_running_text(text, shown):
    assert plain(text) == shown


@pytest.mark.parametrize("text", HOSTILE)
def test_code_ends_where_it_should(text):
    span = code(text)
    fence = re.match("`+", span)[0]
    assert span.endswith(fence) and "\n" not in span
    assert not re.search(rf"(?<!`){fence}(?!`)", span[len(fence) : -len(fence)])
    assert not re.search(r"(?<!\\)\|", code(text, in_table=True))
    lines = fenced(text, "bibtex").split("\n")
    assert re.fullmatch("(`{3,})bibtex", lines[0]) and lines[-1] + "bibtex" == lines[0]
    assert not [line for line in lines[1:-1] if line.startswith(lines[-1])]


def test_only_web_addresses_are_linked():
    assert link("a", "https://example.org/x") == "[a](https://example.org/x)"
    assert link("a", "https://example.org/x(1)") == "[a](<https://example.org/x(1)>)"
    for url in ("javascript:alert(1)", "https://u:p@h/", "https://h/ x", "https://h/>", "//h", None, "https://h/\\x"):
        assert link("[a]", url) == r"\[a\]" and web_address(url) is None


@pytest.mark.parametrize("text", HOSTILE)
def test_a_card_shows_and_does_nothing(artifact, text):
    manifest, records = read_description(find(artifact))
    source = manifest.source.model_copy(
        update={"train_split": text, "test_split": text, "license": text, "bibtex": text, "revision": text}
    )
    method = manifest.method.model_copy(
        update={"title": text, "bibtex": text, "config": {text: text, "x": [text]}, "notes": {text: text}}
    )
    classes = [ClassRecord(name=f"{text}{i}", source_index=text, wnid=text) for i in range(3)]
    environment = manifest.environment.model_copy(update={"hardware": text, "packages": {text: text}, "python": text})
    update = {"source": source, "method": method, "classes": classes, "environment": environment}
    hostile = manifest.model_copy(update=update | {"superseded_by": text, "license": text})
    files = {**find(artifact).files, "assets/preview.png": 1}
    card = render_card(hostile, records, location=str(artifact), files=files)
    usual = render_card(manifest, records, location=str(artifact), files=files)
    data, body = front_matter(card)
    assert data["dataset_info"]["features"][1]["dtype"]["class_label"]["names"]["0"] == f"{text}0"
    headings = re.compile("^#+ .*", re.MULTILINE)
    picture = re.compile(r'^<img src="assets/preview.png" width="\d+" alt="[^"<>\n]*">$', re.MULTILINE)
    assert len(picture.findall(body)) == 1
    outside = _without_code(picture.sub("", body))
    (title, *others), (_, *usually) = (headings.findall(text) for text in (outside, _without_code(front_matter(usual)[1])))
    assert others == usually and title.startswith("# fish in 2 images per class, by ")
    assert not re.search(r"<(script|img)", outside) and "\x1b" not in body and "\u202e" not in body
    links = re.compile(r"(?<!\\)\]\(")
    assert len(links.findall(outside)) == len(links.findall(_without_code(usual)))
    assert not re.search(r"(?<!\()https?://(?!arxiv)|www\.|(?<!\\)@", outside)


def _without_code(text: str) -> str:
    """Leave blocks and spans of code out, as CommonMark finds them."""
    text = re.sub(r"^(`{3,})\w*\n.*?^\1$", "", text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"\\`", "", text)
    return re.sub(r"(?<!`)(`+)(?!`)(.*?)(?<!`)\1(?!`)", "", text)


def test_the_manifest_of_the_small_set_is_what_is_changed_above(artifact):
    assert Manifest.read(artifact / "manifest.json").environment is not None
