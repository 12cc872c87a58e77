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
    assert label_order(labelled([0, 2], ["x", "y", "z"]), FRUIT, classes).tolist() == [0, 1, 2]


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
