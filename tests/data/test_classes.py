import pytest
from timm.data import ImageNetInfo

from distill_hub.config import InputError
from distill_hub.data.classes import SourceClass, find_classes, match_classes

IMAGENET = ImageNetInfo()
DESCRIPTIONS = [IMAGENET.index_to_description(index) for index in range(1000)]
FISH = [
    SourceClass("tench", 0, "n01440764"),
    SourceClass("goldfish", 1, "n01443537"),
    SourceClass("great white shark", 2, "n01484850"),
]


def refusal(*args, **kwargs):
    with pytest.raises(InputError) as caught:
        find_classes(*args, **kwargs)
    assert "\n" not in str(caught.value) and caught.value.field == "classes"
    return str(caught.value)


def test_by_name_wnid_and_synonym():
    names = ["Goldfish, Carassius auratus", "n01484850", "tench"]
    assert find_classes(names, FISH, "classes", "a file") == [1, 2, 0]


def test_exact_name_goes_before_synonyms():
    classes = [SourceClass("crane, bird", 0), SourceClass("crane", 1)]
    assert find_classes(["crane"], classes, "classes", "a file") == [1]


def test_thousand_imagenet_names_are_found_by_wnid():
    short = [description.split(",")[0] for description in DESCRIPTIONS]  # 'crane' and 'maillot' twice each
    bird, machine = SourceClass("crane a", 0, "n02012849"), SourceClass("crane b", 0, "n03126707")
    found = find_classes(short, [machine, FISH[1], bird], "classes", "a file", {1, 134, 517})
    assert [found[i] for i in (1, 134, 517)] == [1, 2, 0]
    assert sum(place >= 0 for place in found) == 3


def test_names_that_fit_none_or_several_are_listed():
    message = refusal(["tench", "00001", "00002"], FISH, "classes", "a file")
    assert "00001, 00002" in message and "--classes" in message and "'a file'" in message
    twins = [SourceClass("crane, bird", 0), SourceClass("crane, machine", 1)]
    assert "names: crane;" in refusal(["crane"], twins, "classes", "a file")


def test_long_lists_are_cut():
    assert "0, 1, 2, 3, 4 and 2 more" in refusal([str(i) for i in range(7)], FISH, "classes", "a file")


def test_two_names_for_one_class_are_refused():
    assert "one class: tench, n01440764" in refusal(["tench", "goldfish", "n01440764"], FISH, "classes", "a file")


def test_names_that_are_not_needed_may_fit_none_or_share_a_class():
    names = ["tench", "00001", "n01440764", "goldfish", "Goldfish", "n01443537"]
    assert find_classes(names, FISH, "classes", "a file", {0}) == [0, -1, -1, -1, -1, -1]


def test_an_accent_may_be_one_character_or_two():
    """macOS takes the names of files apart: a set that was unpacked there names the same class."""
    apart = ["Ve\u0301lo", "Cafe\u0301, bar"]
    together = [SourceClass("V\u00e9lo", 0), SourceClass("caf\u00e9", 1)]  # the second fits by its synonym
    assert find_classes(apart, together, "classes", "x") == [0, 1]
    assert match_classes([SourceClass(name, i) for i, name in enumerate(apart)], [c.name for c in together], "a", "b") == [
        0,
        1,
    ]
    with pytest.raises(InputError, match="several of its names stand for one class"):
        find_classes(["Ve\u0301lo", "V\u00e9lo"], together, "classes", "x")
