"""Students of a set with free pixels see these, and with whitened ones whitened real images."""

import numpy as np
import pytest
import torch

from distill_hub import evaluate
from distill_hub.artifact.find import find
from distill_hub.artifact.manifest import FreePixelsRecord, ZcaRecord
from distill_hub.augmentation.zca import fit
from distill_hub.config import InputError
from distill_hub.data.known import NORMALIZATIONS
from distill_hub.making.relabel import relabel
from distill_hub.options.commands import RelabelConfig
from distill_hub.running.seeds import draw_seed
from distill_hub.training.protocols import protocol
from distill_hub.training.settings import Task
from distill_hub.training.train import TrainingSet, train_students

STUDENT = "convnet-1-w16"
ORDER = list(range(10))


def brightened(image):
    """More contrast than a picture holds."""
    return (2 * (image.transpose(2, 0, 1) / 255) - 0.75).astype(np.float16)


@pytest.fixture(scope="module")
def zca(digits):
    return fit(digits.train.pixels(None, 16).split(300))


@pytest.fixture
def whitened(make_set, zca, tmp_path):
    """Package whitened digits; fields go to the record of the transform."""

    def build(**fields):
        record = ZcaRecord(**{"eps": 0.1, "images": zca.images, "sha256": zca.sha256, **fields})

        def free(image):
            return zca.whiten(torch.from_numpy(image.transpose(2, 0, 1)[None].copy()))[0].half().numpy()

        return make_set(tmp_path / "whitened", ORDER, free=free, free_pixels=FreePixelsRecord(zca=record))

    return build


def trained(images, test, **changes):
    """Train on floats, without a set around them."""
    task = Task(50, 10, 16, False, NORMALIZATIONS["imagenet"], STUDENT)
    settings = protocol("quick").settings(task)
    settings = settings.__class__(**{**settings.__dict__, **changes})
    labels = torch.arange(10).repeat_interleave(5)
    (training,) = train_students(STUDENT, [TrainingSet(images, labels)], test, 10, settings, [0])
    return training.last


@pytest.fixture(scope="module")
def real(digits):
    chosen = digits.train.draw_per_class(5, seed=0)
    return digits.train.pixels(chosen, 16)


@pytest.fixture(scope="module")
def test_split(digits):
    return digits.test.pixels(None, 16), torch.from_numpy(digits.test.labels)


def test_students_are_trained_on_the_floats_and_not_on_the_pictures(make_set, digits, real, test_split, tmp_path):
    folder = make_set(tmp_path / "free", ORDER, free=brightened, free_pixels=FreePixelsRecord())
    (pair,) = evaluate(folder, protocol="quick", students=STUDENT, repeats=1)
    floats = torch.from_numpy(np.stack([brightened(image) for image in real.permute(0, 2, 3, 1).numpy()])).float()
    assert floats.min() < -0.5 and floats.max() > 1.2
    assert pair.measured.score.mean == trained(floats, test_split) > 0.3  # black pictures: 0.1
    assert pair.measured.baselines["random real"].mean > 0.3


def test_whitened_students_are_tested_on_whitened_images(whitened, zca, digits, real, test_split):
    (pair,) = evaluate(whitened(), protocol="quick", students=STUDENT, repeats=1)
    test = zca.whiten(test_split[0]), test_split[1]
    plain = {"mean": (0.0,) * 3, "std": (1.0,) * 3}
    assert pair.measured.score.mean == trained(zca.whiten(real).half().float(), test, **plain) > 0.3
    drawn = digits.train.pixels(digits.train.draw_per_class(5, draw_seed(0, "random real")), 16)
    assert pair.measured.baselines["random real"].mean == trained(zca.whiten(drawn), test, **plain)
    assert pair.measured.settings["mean"] == [0.0] * 3


def test_other_training_images_are_refused(whitened):
    for fields in ({"sha256": "0" * 64}, {"images": 5}):
        with pytest.raises(InputError, match=r"^source: .*training images are others than") as caught:
            evaluate(whitened(**fields), protocol="quick", students=STUDENT, repeats=1)
        assert "\n" not in str(caught.value)


def test_what_a_teacher_says_of_pictures_is_refused(make_set, tmp_path):
    folder = make_set(tmp_path / "free", ORDER, free=brightened, free_pixels=FreePixelsRecord())
    for name in ("rded-soft", "sre2l", "fkd"):
        with pytest.raises(InputError, match=r"^protocol: .*free pixels are none") as caught:
            evaluate(folder, protocol=name, teacher="auto", repeats=1)
        assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="--mmd"):
        evaluate(folder, protocol="quick", mmd=True, repeats=1)
    with pytest.raises(InputError, match="views are of pictures"):
        relabel(find(folder), RelabelConfig(location=str(folder)))
