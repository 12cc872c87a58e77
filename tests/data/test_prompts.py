"""Prompts of classes: from names as ImageNet has them, from a template, and from a table that a user wrote."""

import json

import pytest

from distill_hub.config import InputError
from distill_hub.data.classes import SourceClass, imagenet_classes, match_classes
from distill_hub.data.prompts import prompts_of

CRANES = [SourceClass("crane (n02012849)", 134, "n02012849"), SourceClass("crane (n03126707)", 517, "n03126707")]


def imagenet(*wnids):
    """As a folder of wnids has them."""
    return [SourceClass(wnid, place, wnid) for place, wnid in enumerate(wnids)]


def named(*names):
    return [SourceClass(name, place) for place, name in enumerate(names)]


def test_names_go_into_the_template():
    classes = named("cat", "golden_retriever", "salt, pepper")
    expected = ["a photo of a cat", "a photo of a golden retriever", "a photo of a salt, pepper"]
    assert prompts_of(classes) == expected
    assert prompts_of(classes, "{}") == ["cat", "golden retriever", "salt, pepper"]
    assert prompts_of(named("a{0}", "{}"), "no {} here") == ["no a{0} here", "no {} here"]


def test_imagenet_s_classes_are_called_by_their_first_synonym_unless_two_would_be_alike():
    """A maillot is two classes; a Cardigan is a dog, and a cardigan is none, but CLIP knows no capitals."""
    tench, dog, wool, one, other = imagenet("n01440764", "n02113186", "n02963159", "n03710637", "n03710721")
    assert prompts_of([tench, dog, one], "{}") == ["tench", "Cardigan", "maillot"]
    expected = ["tench", "Cardigan, Cardigan Welsh corgi", "cardigan", "maillot", "maillot, tank suit"]
    assert prompts_of([tench, dog, wool, one, other], "{}") == expected
    assert prompts_of(CRANES[1:]) == ["a photo of a crane"]


def test_of_all_of_imagenet_the_cranes_alone_need_a_table(tmp_path):
    classes = imagenet(*imagenet_classes()[0])
    with pytest.raises(InputError, match="n02012849 and n03126707"):
        prompts_of(classes)
    (tmp_path / "p.yaml").write_text("n02012849: a photo of a crane, a bird\n")
    prompts = prompts_of(classes, file=tmp_path / "p.yaml")
    assert len({prompt.lower() for prompt in prompts}) == 1000
    assert (prompts[134], prompts[517]) == ("a photo of a crane, a bird", "a photo of a crane")


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (CRANES, r"prompts: 'a photo of a crane' .*crane \(n02012849\) and crane \(n03126707\)"),
        (named("cat", "Cat"), "cat and Cat"),
        (named("e\u0301clair", "\u00e9clair"), "clair and "),
        (named("dog", "sea_lion", "sea  lion"), "sea_lion and sea lion"),
    ],
)
def test_two_classes_with_one_prompt(classes, words):
    with pytest.raises(InputError, match=words):
        prompts_of(classes)


def test_the_classes_of_the_generator_are_found_as_those_of_the_source_in_its_order():
    classes = [*CRANES[::-1], *named("0", "1"), SourceClass("n01440764", 9, "n01440764")]
    assert match_classes(classes, [c.wnid or c.name for c in classes], "generator", "x") == list(range(5))


def test_a_table_names_some_classes_by_name_or_wnid(tmp_path):
    table = {"cat": "my cat", "n03126707": "a tower crane", "n01440764": "a fish that is no class here", "no": "not"}
    classes = [*named("cat", "dog", "no"), CRANES[1]]
    (tmp_path / "p.json").write_text(json.dumps(table))
    (tmp_path / "p.yaml").write_text("".join(f"{name}: {prompt}\n" for name, prompt in table.items()))
    for file in tmp_path.iterdir():
        assert prompts_of(classes, "{}", file) == ["my cat", "dog", "not", "a tower crane"]
    (tmp_path / "digits.yaml").write_text("0: zero\n01: one\n")
    assert prompts_of(named("0", "01"), file=tmp_path / "digits.yaml") == ["zero", "one"]
    (tmp_path / "accent.yaml").write_text("e\u0301clair: cake\n")
    assert prompts_of(named("\u00e9clair"), file=tmp_path / "accent.yaml") == ["cake"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("catt: a cat", "no class that is called: catt"),
        ("n99999999: a cat", "no class that is called: n99999999"),
        ("cat: a\ncat: b", "given twice"),
        ("cat: &x a\ndog: *x", "alias"),
        ("cat: [a, b]", "for cat is no line of text"),
        ("cat: ''", "for cat is no line of text"),
        ('cat: "a\\nb"', "for cat is no line of text"),
        ("- cat", "no lines of that kind"),
        ("", "no lines of that kind"),
        ("[" * 5000, "YAML or JSON"),
        ("cat: one\ndog: ONE ", "cat and dog"),
        ("crane (n02012849): a\nn02012849: b", "both name and wnid of: crane"),
    ],
)
def test_a_table_that_cannot_be_used(tmp_path, text, words):
    (tmp_path / "p.yaml").write_text(text)
    with pytest.raises(InputError) as caught:
        prompts_of([*named("cat", "dog"), CRANES[0]], file=tmp_path / "p.yaml")
    said = str(caught.value)
    assert said.startswith("prompts: ") and words in said and said.isprintable() and len(said) < 600


def test_a_table_that_is_not_there(tmp_path):
    for file in (tmp_path, tmp_path / "p.yaml"):
        with pytest.raises(InputError, match=r"prompts: .*YAML or JSON file"):
            prompts_of(named("cat", "dog"), file=file)


@pytest.mark.parametrize("template", ["", "a photo", "{} and {}", "{name}"])
def test_a_template_needs_one_place(template):
    with pytest.raises(InputError, match="prompt_template"):
        prompts_of(named("cat", "dog"), template)
