"""What the labels stand for."""

import types

import numpy as np
import pytest
import torch
from foreign_files import NAMES, PIXELS

from distill_hub.config import InputError
from distill_hub.data.classes import IMAGEWOOF, SourceClass, imagenet_classes
from distill_hub.data.sources import load_source
from distill_hub.foreign.read import ForeignSet, label_order, read_foreign


@pytest.fixture(scope="module")
def digits():
    return load_source("digits")


def source(classes, name="org/fruit"):
    return types.SimpleNamespace(name=name, classes=classes, class_names=[c.name for c in classes])


FRUIT = source([SourceClass(name, i) for i, name in enumerate(("apple", "fig", "pear"))])
WOOF = source([SourceClass(wnid, i, wnid) for i, wnid in enumerate(sorted(IMAGEWOOF))], "org/woof")


def labelled(labels, names=None, soft=None):
    images = torch.zeros(len(labels), 3, 1, 1, dtype=torch.uint8)
    return ForeignSet("a set", images, np.array(labels), names, soft, {})


def no_order(*args):
    with pytest.raises(InputError) as caught:
        label_order(*args)
    assert "\n" not in str(caught.value) and caught.value.field == "classes"
    return str(caught.value)


def test_another_class_order_is_matched_by_name():
    order = label_order(labelled([0, 1, 2], NAMES), FRUIT, None)
    assert order.dtype == np.int64 and order.tolist() == [2, 0, 1]


def test_image_folder_of_digits(image_folder, digits):
    found = read_foreign(str(image_folder({f"{i}/0.png": PIXELS[0] for i in (7, 0, 3)})))
    assert label_order(found, digits, None).tolist() == [0, 3, 7]


def test_folders_that_name_no_class_need_classes(image_folder):
    found = read_foreign(str(image_folder({f"{i:05}/0.png": PIXELS[0] for i in range(10)})))
    message = no_order(found, WOOF, None)
    assert "00000, 00001" in message and "--classes" in message
    assert label_order(found, WOOF, "imagewoof").tolist() == [5, 4, 8, 2, 0, 3, 1, 9, 6, 7]


def test_numbers_without_names_are_refused():
    message = no_order(labelled([0, 1, 2]), FRUIT, None)
    assert "--classes" in message and "not on record" in message


@pytest.mark.parametrize("classes", ["source", "org/fruit"])
def test_order_of_the_source(classes):
    assert label_order(labelled([0, 2]), FRUIT, classes).tolist() == [0, 1, 2]


@pytest.mark.parametrize("names", [["x", "y", "z"], ["n01440764", "n01443537", "n01484850"], ["kiwi 1", "fig 2", "pear 3"]])
def test_names_of_a_set_are_no_positions(names):
    assert f"names its classes itself ({names[0]}, " in no_order(labelled([0, 1, 2], names), FRUIT, "source")
    assert label_order(labelled([0, 1, 2], names), FRUIT, "pear,apple,fig").tolist() == [2, 0, 1]  # said one by one


def test_classes_as_list_or_file(tmp_path):
    assert label_order(labelled([0, 1]), FRUIT, "pear, apple ").tolist() == [2, 0]
    file = tmp_path / "classes.txt"
    file.write_text("fig\n\n  pear \r\napple\n")
    assert label_order(labelled([0, 1]), FRUIT, str(file)).tolist() == [1, 2, 0]
    file.write_bytes(b"\xff\xfe")
    assert "cannot be read" in no_order(labelled([0, 1]), FRUIT, str(file))


def test_a_hundred_wnids_are_a_list_not_a_file():
    wnids = imagenet_classes()[0][:100]
    classes = source([SourceClass(wnid, i, wnid) for i, wnid in enumerate(wnids)])
    assert label_order(labelled([0, 99]), classes, ",".join(wnids[::-1])).tolist() == list(range(99, -1, -1))


def test_order_of_the_papers():
    assert label_order(labelled(range(10)), WOOF, "imagewoof").tolist() == [5, 4, 8, 2, 0, 3, 1, 9, 6, 7]
    order = label_order(labelled([155, 159]), WOOF, "imagenet1k")  # Shih-Tzu and Rhodesian ridgeback, n02086240, n02087394
    assert len(order) == 1000 and order[155] == 0 and order[159] == 1
    assert "do not give one" in no_order(labelled([0]), WOOF, "imagenet1k")


@pytest.mark.parametrize("classes", ["imagewof", "cifar10", "", "nowhere.txt"])
def test_classes_that_are_nothing(classes):
    assert "comma-separated list" in no_order(labelled([0]), FRUIT, classes)


def test_more_label_values_than_names():
    message = no_order(labelled([0, 1, 4]), FRUIT, "fig,pear,apple")
    assert "3 names" in message and "3 label values up to 4" in message
    assert "2 names" in no_order(labelled([0, 1, 2]), FRUIT, "fig,pear")


def test_names_without_images_need_not_be_found():
    assert label_order(labelled([0, 2], ["fig", "kiwi", "pear"]), FRUIT, None).tolist() == [1, -1, 2]


def test_names_and_columns_of_soft_labels_must_be_as_many():
    soft = np.full((2, 3), 1 / 3, np.float32)
    assert label_order(labelled([0, 1], soft=soft), FRUIT, "pear,fig,apple").tolist() == [2, 1, 0]
    assert "2 names" in no_order(labelled([0, 1], soft=soft), FRUIT, "pear,fig")


def test_two_labels_for_one_class_are_refused():
    assert "one class" in no_order(labelled([0, 1]), FRUIT, "pear,Pear")


# Names on record


def test_the_sets_own_names_win_over_the_sources_order():
    assert label_order(labelled([0, 1, 2], NAMES), FRUIT, "source").tolist() == [2, 0, 1]
    digits = source([SourceClass(name, i) for i, name in enumerate(sorted(str(i) for i in range(12)))])
    order = label_order(labelled(range(12), [str(i) for i in range(12)]), digits, "source")
    assert [digits.class_names[place] for place in order] == [str(i) for i in range(12)]


@pytest.mark.parametrize("classes", ["apple,fig,pear", "fig,pear,apple"])
def test_names_that_are_contradicted_are_an_error(classes):
    message = no_order(labelled([0, 1, 2], NAMES), FRUIT, classes)
    assert "calls label 0 'pear'" in message and "leave the option out" in message


def test_names_that_are_confirmed_are_none():
    assert label_order(labelled([0, 1, 2], NAMES), FRUIT, "pear,apple,fig").tolist() == [2, 0, 1]


def test_names_of_which_some_are_the_sources_are_an_error():
    assert "kiwi" in no_order(labelled([0, 1], ["pear", "kiwi"]), FRUIT, "source")


def test_numbered_folders_are_numbers_whatever_is_left_out():
    assert label_order(labelled([0, 1], ["0", "2"]), FRUIT, "pear,fig,apple").tolist() == [2, 0]
    assert label_order(labelled([0, 1], ["00000", "00002"]), FRUIT, "source").tolist() == [0, 2]
    assert "3 names are too few" in no_order(labelled([0, 1], ["0", "3"]), FRUIT, "pear,fig,apple")
    assert label_order(labelled([0, 1], ["class_0", "class_2"]), FRUIT, "source").tolist() == [0, 2]
    assert "same number" in no_order(labelled([0, 1], ["1", "01"]), FRUIT, "source")


LISTS = {
    "BOM": b"\xef\xbb\xbfpear\nfig\napple\n",
    "UTF-16": "pear\nfig\napple\n".encode("utf-16"),
    "CRLF": b"pear\r\nfig\r\napple\r\n",
    "id2label": b'{"2": "apple", "0": "pear", "1": "fig"}',
    "config": b'{"id2label": {"0": "pear", "1": "fig", "2": "apple"}}',
    "label2id": b'{"apple": 2, "pear": 0, "fig": 1}',
    "CSV": b"label,name\n0,pear\n2,apple\n1,fig\n",
    "CSV, names first": b"pear,0\napple,2\nfig,1\n",
    "numbers": b"1: fig\n0: pear\n2: apple\n",
    "names": b'{"names": ["pear", "fig", "apple"]}',
    "list": b'\xef\xbb\xbf["pear", "fig", "apple"]',
}


@pytest.mark.parametrize("kind", LISTS)
def test_lists_of_classes_as_people_keep_them(tmp_path, kind):
    (tmp_path / "classes").write_bytes(LISTS[kind])
    assert label_order(labelled([0, 1, 2]), FRUIT, str(tmp_path / "classes")).tolist() == [2, 1, 0]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pear\nfig".encode("utf-16-le"), "neither UTF-8 nor UTF-16"),
        ("pear\nfig".encode("utf-32"), "neither UTF-8 nor UTF-16"),
        (b'{"0": "pear", "0": "fig"}', "the key '0' is given twice"),
        (b'{"pear": false, "fig": true}', "cannot be read as text, or as JSON"),
        (b"1,pear\n2,fig\n", "not numbered 0, 1, ..., each once"),
    ],
)
def test_lists_of_classes_that_would_be_a_guess(tmp_path, text, words):
    (tmp_path / "classes").write_bytes(text)
    assert words in no_order(labelled([0, 1]), FRUIT, str(tmp_path / "classes"))


def test_the_number_in_a_name_is_part_of_it(tmp_path):
    digits = source([SourceClass("0 - zero", 0), SourceClass("1 - one", 1)])
    (tmp_path / "classes").write_bytes(b"1 - one\n0 - zero\n")
    assert label_order(labelled([0, 1]), digits, str(tmp_path / "classes")).tolist() == [1, 0]


def test_wnids_before_words(tmp_path):
    (tmp_path / "synsets.txt").write_text("".join(f"{wnid} some dog, another\n" for wnid in IMAGEWOOF))
    assert label_order(labelled(range(10)), WOOF, str(tmp_path / "synsets.txt")).tolist() == [5, 4, 8, 2, 0, 3, 1, 9, 6, 7]


@pytest.mark.parametrize(
    "text", ["{", "{}", "[1, 2]", '{"0": "a", "2": "b"}', '{"a": 0, "b": 0}', "[" * 10_000, '{"x": "a"}']
)
def test_json_that_is_no_list_of_classes(tmp_path, text):
    (tmp_path / "classes.json").write_text(text)
    assert "cannot be read" in no_order(labelled([0]), FRUIT, str(tmp_path / "classes.json"))
