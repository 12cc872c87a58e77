"""Every number of the protocols, as papers and released codes have it, written out by hand."""

import dataclasses

import pytest
import torch

from distill_hub.augmentation.augment import Augmentation
from distill_hub.config import InputError
from distill_hub.data.known import KNOWN, NORMALIZATIONS
from distill_hub.networks import names
from distill_hub.options.shared import EvaluationOptions
from distill_hub.training.post_training import FKD_EPOCHS, fkd_batch_size
from distill_hub.training.protocols import PROTOCOLS, idc_epochs, protocol
from distill_hub.training.settings import Settings, Task, learning_rate, teacher_temperature

IPCS = (1, 10, 20, 50, 100)
CIFAR = ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010))
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def settings(name, *, ipc=10, classes=10, size=224, student="resnet-18-bn", source="imagewoof", **task) -> Settings:
    known = KNOWN[source]
    how = {"mirrored": known.mirrored, "normalization": NORMALIZATIONS[known.normalization]}
    return protocol(name).settings(Task(ipc * classes, classes, size, student=student, **how, **task))


def test_the_protocols_are_those_the_options_name():
    assert tuple(PROTOCOLS) == names.PROTOCOLS
    field = next(f for f in dataclasses.fields(EvaluationOptions) if f.name == "protocol")
    assert all(f" {name} (" in f" {field.metadata['help']}" for name in PROTOCOLS)
    assert [name for name in PROTOCOLS if settings(name).non_standard] == ["quick", "frozen"]


def test_protocols_by_name_and_version():
    assert protocol("idc-hard").name == "idc-hard"
    assert protocol("quick", 2).version == 2
    with pytest.raises(InputError, match="did you mean 'quick'"):
        protocol("quik")
    with pytest.raises(InputError, match="knows version 2; --protocol quick scores"):
        protocol("quick", 1)


# Epochs of IDC's argument.py by classes and IPC; 100 classes: a third less, floored to a hundred.
IDC_EPOCHS = {
    10: (3000, 2000, 1500, 1500, 1000),
    100: (2000, 1300, 1000, 1000, 600),
    200: (3000, 2000, 1500, 1500, 1000),
    1000: (3000, 2000, 1500, 1500, 1000),
}


@pytest.mark.parametrize("classes", IDC_EPOCHS)
@pytest.mark.parametrize("place", range(5))
def test_idc_hard_on_imagenet(classes, place):
    got, epochs = settings("idc-hard", ipc=IPCS[place], classes=classes), IDC_EPOCHS[classes][place]
    large = classes > 100
    assert (got.epochs, got.batch_size) == (epochs, 128 if large else 64)
    assert (got.optimizer, got.learning_rate, got.weight_decay) == ("sgd", 0.1 if large else 0.01, 1e-4 if large else 5e-4)
    assert got.decay_all and got.schedule == "multistep" and got.labels == "hard"
    assert (got.image_size, got.test_resize) == (224, 224)  # no margin around the test crop
    assert len(got.looks) == 100 and got.looks[0] == epochs // 100 and got.looks[-1] == epochs
    assert (got.mean, got.std) == IMAGENET
    assert got.augmentation == Augmentation(
        crop_scale=(0.5, 1.0), flip=True, jitter=0.4, lighting=0.1, mix="cutmix", mix_probability=1.0, mix_alpha=1.0
    )


@pytest.mark.parametrize(
    ("source", "ipc", "words"),
    [
        *(("mnist", 10, "one channel"), ("fashion-mnist", 1, "one channel"), ("svhn", 1, "cutout")),
        *(("svhn", 10, None), ("cifar10", 1, None), ("tiny-imagenet", 1, None)),
    ],
)
def test_what_idc_trains_in_a_way_of_its_own_is_non_standard(source, ipc, words):
    for name in ("idc-hard", "idc-hard-100", "kd"):
        reason = settings(name, ipc=ipc, size=32, source=source).non_standard
        assert reason is None if words is None else words in reason


@pytest.mark.parametrize("classes", [10, 99, 100, 101, 1000])
def test_idc_hard_100_differs_at_100_classes_alone(classes):
    minimax, idc = (settings(name, classes=classes, ipc=20) for name in ("idc-hard", "idc-hard-100"))
    small, large = (0.01, 5e-4, 64), (0.1, 1e-4, 128)
    steps = [(got.learning_rate, got.weight_decay, got.batch_size) for got in (minimax, idc)]
    assert steps == [large if classes > 100 else small, large if classes >= 100 else small]
    assert (minimax == idc) == (classes != 100)
    assert minimax.epochs == idc.epochs and idc.non_standard is None
    cifar = {"classes": 100, "size": 32, "source": "cifar100"}
    assert settings("idc-hard", **cifar) == settings("idc-hard-100", **cifar)  # on small images there is one reading


def test_idc_epochs_beyond_the_usual_ipc():
    assert [idc_epochs(ipc, 10) for ipc in (2, 11, 51, 200, 201, 500, 501)] == [2000, 1500, 1000, 1000, 500, 500, 300]
    assert idc_epochs(1 * 3**2, 10) == 2000  # IDC's multi-formation with factor 3


@pytest.mark.parametrize("ipc", IPCS)
@pytest.mark.parametrize(("source", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_idc_hard_on_small_images(source, classes, ipc):
    got = settings("idc-hard", ipc=ipc, classes=classes, size=32, source=source, student="convnet-3")
    assert (got.epochs, got.batch_size, got.learning_rate, got.weight_decay) == (1000, 64, 0.01, 5e-4)
    assert got.looks == (1000,)
    assert (got.mean, got.std) == CIFAR
    assert got.augmentation == Augmentation(flip=True, siamese=True, mix="cutmix", mix_probability=0.5)


def mirrors(rules: Settings) -> bool:
    return rules.augmentation.flip or "flip" in rules.augmentation.dsa


def test_digits_are_not_mirrored():
    for name in PROTOCOLS:
        for source in ("digits", "mnist", "svhn"):
            assert not mirrors(settings(name, size=32, source=source))
        assert mirrors(settings(name, size=32, source="fashion-mnist")) or name in ("quick", "frozen")


@pytest.mark.parametrize("ipc", IPCS)
@pytest.mark.parametrize(("source", "size"), [("cifar10", 32), ("tiny-imagenet", 64), ("imagewoof", 128)])
def test_dsa_hard(ipc, source, size):
    got = settings("dsa-hard", ipc=ipc, size=size, source=source, student="convnet-3")
    assert (got.epochs, got.batch_size, got.optimizer, got.learning_rate, got.weight_decay) == (1000, 256, "sgd", 0.01, 5e-4)
    assert (
        got.decay_all and got.labels == "hard" and got.looks == (1000,) and (got.image_size, got.test_resize) == (size, size)
    )
    assert [learning_rate(got, epoch) for epoch in (0, 499, 500, 999)] == pytest.approx([0.01, 0.01, 0.001, 0.001])
    assert got.augmentation == Augmentation(dsa=("color", "crop", "cutout", "flip", "scale", "rotate"))
    assert (got.mean, got.std) == (NORMALIZATIONS[KNOWN[source].normalization] if size <= 64 else IMAGENET)


def test_a_learning_rate_that_was_learned_with_the_images_is_the_students():
    got = settings("dsa-hard", size=32, source="cifar10", student="convnet-3", student_rate=0.0237)
    assert (got.learning_rate, got.learned_rate) == (0.01, 0.0237) and learning_rate(got, 700) == pytest.approx(0.00237)
    assert settings("idc-hard", size=32, source="cifar10", student_rate=0.0237).learning_rate == 0.01


def test_dsa_soft_is_dsa_hard_on_the_stored_soft_labels_as_they_are():
    how = {"size": 32, "source": "cifar10", "student": "convnet-3", "student_rate": 0.0237}
    got = settings("dsa-soft", **how)
    assert got == dataclasses.replace(settings("dsa-hard", **how), labels="soft")
    assert got.temperature == 1.0 and not got.temperature_squared


@pytest.mark.parametrize("ipc", IPCS)
def test_kd_is_idc_with_the_loss_of_the_paper(ipc):
    got, hard = settings("kd", ipc=ipc, student="convnet-6"), settings("idc-hard", ipc=ipc, student="convnet-6")
    assert got == dataclasses.replace(hard, labels="soft", temperature=1.5, temperature_squared=True)
    own = settings("kd", ipc=ipc, student="convnet-6", label_temperature=4.0)  # one tau for labels and loss (Alg. 1)
    assert own == dataclasses.replace(got, temperature=4.0)
    assert settings("idc-hard", ipc=ipc, student="convnet-6", label_temperature=4.0) == hard


RDED_BATCH = {  # by classes, over IPC 1, 10, 20, 50, 100; RDED knows 1, 10 and 50; never more than there are images
    10: (10, 50, 50, 100, 100),
    100: (20, 100, 100, 200, 200),
    200: (100, 100, 100, 100, 100),  # Tiny-ImageNet
    1000: (20, 100, 100, 200, 200),
}


@pytest.mark.parametrize("classes", RDED_BATCH)
@pytest.mark.parametrize("place", range(5))
def test_rded_soft(classes, place):
    size = 64 if classes == 200 else 224
    got = settings("rded-soft", ipc=IPCS[place], classes=classes, size=size)
    assert (got.epochs, got.batch_size) == (300, RDED_BATCH[classes][place])
    assert (got.optimizer, got.learning_rate, got.weight_decay, got.decay_all) == ("adamw", 0.001, 0.01, False)
    assert (got.schedule, got.labels, got.temperature, got.temperature_squared) == ("half-cosine", "teacher", 20.0, False)
    assert got.looks == (250, 260, 270, 280, 290, 300)
    assert got.batchnorm_updates == 2
    assert (got.image_size, got.test_resize) == ((64, 72) if size == 64 else (224, 256))
    assert (got.mean, got.std) == IMAGENET
    factor = 1 if size == 64 else 2
    assert got.augmentation == Augmentation(patches=factor, crop_scale=(1 / factor, 1.0), flip=True, mix="cutmix")


@pytest.mark.parametrize(
    ("rate", "students"),
    [
        (
            0.001,
            "resnet-18-bn,resnet-50-bn,resnet-101-bn,convnet-3-bn,convnet-4-bn,convnet-6-bn,timm/resnet18,timm/resnet34",
        ),
        (0.002, "efficientnet-b0,timm/efficientnet_b0,timm/efficientnet_b3"),
        (0.0025, "mobilenet-v2,timm/mobilenetv2_100"),
        (0.0005, "vgg-16,vgg-16-bn,timm/vgg11,timm/vgg11_bn"),
        (0.0001, "timm/vit_base_patch16_224,timm/vit_tiny_patch16_224,timm/swinv2_tiny_window8_256"),
    ],
)
def test_rded_s_learning_rates_are_those_of_the_student_s_family(rate, students):
    for student in protocol("rded-soft").students(students, 224):
        got = settings("rded-soft", student=student)
        assert (got.learning_rate, got.non_standard) == (rate, None), student


@pytest.mark.parametrize(
    "student",
    [
        *(
            "shufflenet-v2",
            "resnetap-10",
            "timm/convnext_tiny",
            "timm/efficientnetv2_s",
            "timm/swin_tiny_patch4_window7_224",
        ),
        *("timm/mobilenetv3_large_100", "timm/resnext50_32x4d", "timm/deit_tiny_patch16_224"),
    ],
)
def test_a_learning_rate_that_rded_has_not_is_called_ours(student):
    got = settings("rded-soft", student=student)
    assert got.learning_rate == 0.001
    assert got.non_standard == "RDED's code has no learning rate for this student; 0.001 is our choice"


def test_rded_s_teachers_see_the_batch_as_it_is_where_convnet_5_and_6_make_it_small():
    def shown(student, teacher, size=256):
        got = settings("rded-soft", student=student, teacher=teacher, size=size)
        return got.image_size, got.teacher_as_is

    assert shown("convnet-5-bn", "resnet18") == shown("convnet-6-bn", "resnet-18-bn") == (128, True)
    assert shown("convnet-5-bn", "convnet-5-bn") == shown("convnet-5-bn", "vit_tiny_patch16_224") == (128, False)
    assert shown("resnet-18-bn", "resnet18") == (224, False)
    assert shown("convnet-5-bn", "resnet18", size=64) == (64, False)  # no teacher of RDED's for 64 px has seen larger images
    assert not any(settings(name, teacher="resnet18").teacher_as_is for name in PROTOCOLS)


def test_rded_soft_by_student():
    small = settings("rded-soft", student="convnet-5-bn", size=256)
    assert (small.image_size, small.test_resize) == (128, 144)
    assert settings("rded-soft", student="resnet-18-bn", size=256).image_size == 224
    assert settings("rded-soft", size=32, source="cifar10").test_resize == 32
    assert settings("rded-soft", ipc=1, classes=3).batch_size == 3
    cifar100 = {"classes": 100, "size": 32, "source": "cifar100", "student": "convnet-3-bn"}
    own = settings("rded-soft", **cifar100, teacher="convnet-3-bn")
    assert (own.batch_size, own.learning_rate) == (25, 0.002)
    other = settings("rded-soft", **cifar100, teacher="resnet18")
    assert (other.batch_size, other.learning_rate) == (100, 0.001)


@pytest.mark.parametrize(("classes", "batch_size"), [(10, 100), (100, 128), (1000, 1024)])
def test_sre2l_and_fkd_on_imagenet(classes, batch_size):
    got = settings("sre2l", classes=classes)
    assert (got.epochs, got.batch_size, got.schedule) == (300, batch_size, "cosine")
    assert (got.optimizer, got.learning_rate, got.weight_decay, got.decay_all) == ("adamw", 0.001, 0.01, False)
    assert (got.temperature, got.temperature_squared, got.labels) == (20.0, False, "teacher")
    assert got.looks == (*range(1, 292, 10), 300)
    assert (got.image_size, got.test_resize) == (224, 256)
    assert got.augmentation == Augmentation(crop_scale=(0.08, 1.0), flip=True, mix="cutmix")
    assert settings("fkd", classes=classes) == dataclasses.replace(got, labels="views")
    assert settings("fkd", classes=classes, views_batch_size=77).batch_size == 77
    assert FKD_EPOCHS == 300 and fkd_batch_size(10 * classes, classes) == batch_size


@pytest.mark.parametrize("ipc", IPCS)
def test_sre2l_on_cifar(ipc):
    got = settings("sre2l", ipc=ipc, classes=100, size=32, source="cifar100")
    assert (got.epochs, got.batch_size, got.schedule, got.temperature) == (400, 128, "cosine", 30.0)
    assert (got.optimizer, got.learning_rate, got.weight_decay, got.decay_all) == ("adamw", 0.001, 0.01, True)
    assert got.augmentation == Augmentation(pad=0.125, flip=True, mix="mixup", mix_alpha=0.8)  # 4 pixels of 32
    assert got.looks == (*range(1, 392, 10), 400)
    assert (got.mean, got.std) == CIFAR


def test_sre2l_on_tiny_imagenet():
    got = settings("sre2l", ipc=50, classes=200, size=64, source="tiny-imagenet")
    assert (got.epochs, got.batch_size, got.optimizer, got.learning_rate) == (100, 256, "sgd", 0.2)
    assert (got.weight_decay, got.decay_all, got.schedule) == (1e-4, True, "warmup-cosine")
    assert (got.temperature, got.temperature_squared) == (20.0, True)
    assert got.augmentation == Augmentation(crop_scale=(0.08, 1.0), flip=True)
    assert (got.image_size, got.test_resize) == (64, 64)
    assert (got.mean, got.std) == ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262))


@pytest.mark.parametrize(("ipc", "updates"), [(10, 23_700), (50, 117_300), (100, 234_600)])
def test_lpld_on_imagenet_is_sre2l_in_batches_of_128(ipc, updates):
    got, sre2l = (settings(name, ipc=ipc, classes=1000) for name in ("lpld", "sre2l"))
    assert got == dataclasses.replace(sre2l, batch_size=128) and sre2l.batch_size == 1024
    batches = -(-ipc * 1000 // 128)  # the last one is smaller: 79 at IPC 10
    assert got.epochs * batches == updates
    assert (got.learning_rate, got.temperature, got.temperature_squared, got.labels) == (0.001, 20.0, False, "teacher")
    assert settings("lpld", ipc=1, classes=10).batch_size == 10


def test_lpld_on_tiny_imagenet():
    got = settings("lpld", ipc=50, classes=200, size=64, source="tiny-imagenet")
    assert (got.epochs, got.batch_size, got.optimizer, got.learning_rate) == (100, 64, "sgd", 0.2)
    assert (got.weight_decay, got.decay_all, got.schedule) == (1e-4, False, "warmup-cosine")
    assert (got.temperature, got.temperature_squared, got.labels) == (20.0, True, "teacher")
    assert got.augmentation == Augmentation(crop_scale=(0.08, 1.0), flip=True)  # nothing is mixed
    assert (got.image_size, got.test_resize) == (64, 64)  # test images as they are
    assert got.looks == (1, 11, 21, 31, 41, 51, 61, 71, 81, 91, 100)
    assert (got.mean, got.std) == ((0.4802, 0.4481, 0.3975), (0.2302, 0.2265, 0.2262))
    assert got.non_standard is None


# Of each branch of EDC's code: epochs, batch, SGD, schedule, least crop, first looks.
EDC = {
    ("imagenet1k", 224, 1000): (300, 100, False, "half-cosine", 0.5, (1, 31)),
    ("imagewoof", 224, 10): (1000, 50, False, "half-cosine-drop", 0.5, (1, 31)),
    ("tiny-imagenet", 64, 200): (300, 100, True, "half-cosine", 0.5, (1, 31)),
    ("cifar100", 32, 100): (1000, 50, True, "half-cosine-drop", 0.5, (1, 101)),
    ("cifar10", 32, 10): (1000, 100, False, "halvings", 0.08, (811, 821)),
}


@pytest.mark.parametrize(("source", "size", "classes"), EDC)
def test_edc(source, size, classes):
    got = settings("edc", source=source, size=size, classes=classes)
    epochs, batch_size, sgd, schedule, smallest, looks = EDC[source, size, classes]
    assert (got.epochs, got.batch_size, got.schedule, got.weight_average) == (epochs, batch_size, schedule, 0.99)
    rate = ("sgd", 0.1, 5e-4, 0.875) if sgd else ("adamw", 0.001, 0.01, 0.9)
    assert (got.optimizer, got.learning_rate, got.weight_decay, got.momentum) == rate and not got.decay_all
    crops = {"crop_scale": (smallest, 1.0), "flip": True, "mix": "cutmix"}
    assert got.augmentation == Augmentation(**crops, rand_augment=classes != 1000)  # nowhere halves are shuffled
    assert (got.loss, got.hard_weight, got.labels, got.looks[:2]) == ("mse", 0.025, "teacher", looks)
    assert (got.image_size, got.test_resize) == (size, 256 if size == 224 else size)
    assert got.hard == dataclasses.replace(got, labels="hard", loss="kl", hard_weight=0.0)


def test_lpld_replays_stored_views_where_a_set_has_them():
    for size in (16, 128, 224):
        assert settings("lpld", size=size, views_batch_size=100) == settings("fkd", size=size, views_batch_size=100)
    large = {"classes": 1000, "views_batch_size": 1024}  # SRe2L's batches, in which LPLD has no numbers
    got, fkd = settings("lpld", **large), settings("fkd", **large)
    assert (
        fkd.non_standard is None and "in batches of 128, and these views are stored in batches of 1024" in got.non_standard
    )
    assert dataclasses.replace(got, non_standard=None) == fkd
    replayed, online = (settings("lpld", size=64, source="tiny-imagenet", **own) for own in ({"views_batch_size": 77}, {}))
    views = Augmentation(crop_scale=(0.08, 1.0), flip=True, mix="cutmix")
    changes = {"labels": "views", "batch_size": 77, "augmentation": views, "crops_stored": True}
    assert replayed == dataclasses.replace(online, **changes, non_standard=replayed.non_standard)
    rules = protocol("lpld")
    assert [rules.resolved(views=views).labels for views in (True, False)] == ["views", "teacher"]
    assert all(protocol(name).resolved(views=True) is protocol(name) for name in set(PROTOCOLS) - {"lpld"})


def test_lpqld_is_lpld_at_other_temperatures():
    for size, own in ((224, {"views_batch_size": 100}), (64, {"views_batch_size": 64, "source": "tiny-imagenet"})):
        got, lpld = settings("lpqld", size=size, **own), settings("lpld", size=size, **own)
        looks = (1, 51, 101, 151, 201, 251, 300) if size == 224 else (1, 51, 100)
        changes = {"temperature_steps": (30, 0.7, 2.0), "temperature_found": True, "looks": looks}
        assert got == dataclasses.replace(lpld, **changes) and got.labels == "views"
        assert got.temperature_squared == (size == 64) and (got.non_standard is None) == (size == 224)
        whole = [teacher_temperature(got, epoch) for epoch in range(300)]
        by_hand = [20, 14, 9.8, 6.86, 4.802, 3.3614, 2.35298, 2, 2, 2]  # of 30 epochs each
        assert whole == pytest.approx([value for value in by_hand for _ in range(30)])
        assert {teacher_temperature(lpld, epoch) for epoch in range(300)} == {20.0}
        hard = got.hard
        assert (teacher_temperature(hard, 0), hard.temperature_found) == (1.0, False)


@pytest.mark.parametrize(
    ("name", "size", "is_standard"),
    [
        ("lpld", 32, False),
        ("lpld", 64, True),
        ("sre2l", 32, True),
        ("sre2l", 64, True),
        ("fkd", 32, False),
        ("fkd", 64, False),
        ("lpqld", 32, False),
        ("lpqld", 64, False),
        *(("edc", size, size <= 64 or size >= 224) for size in (32, 64, 65, 128, 223, 224, 256)),
    ]
    + [(name, size, size >= 224) for name in ("lpld", "sre2l", "fkd", "lpqld") for size in (128, 223, 224, 256)],
)
def test_what_no_paper_trains_is_non_standard(name, size, is_standard):
    got = settings(name, size=size, source="cifar10")
    assert (got.non_standard is None) == is_standard
    if (name, size) == ("lpld", 32):  # DEDA on CIFAR follows SRe2L
        assert dataclasses.replace(got, non_standard=None) == settings("sre2l", size=32, source="cifar10")


@pytest.mark.parametrize(
    ("images", "epochs", "looks"), [(10, 100, 5), (100, 50, 5), (5000, 1, 1), (60, 50, 5), (1000, 5, 5)]
)
def test_quick_takes_about_a_hundred_steps(images, epochs, looks):
    got = protocol("quick").settings(Task(images, 2, 16, True, IMAGENET, "convnet-2"))
    assert got.epochs == epochs and len(got.looks) == looks and got.looks[-1] == epochs


@pytest.mark.parametrize("name", PROTOCOLS)
@pytest.mark.parametrize("size", [16, 32, 64, 128, 224, 256])
def test_the_last_epoch_is_always_looked_at(name, size):
    got = settings(name, size=size)
    assert got.looks[-1] == got.epochs and list(got.looks) == sorted(set(got.looks))
    assert got.image_size <= min(size, 224) and got.test_resize >= got.image_size


def rates(name, epochs, **task):
    got = settings(name, **task)
    return [learning_rate(got, epoch) / got.learning_rate for epoch in epochs]


def test_schedules():
    # 2,000 epochs: floor(2E/3) = 1333, floor(5E/6) = 1666.
    assert rates("idc-hard", (0, 1332, 1333, 1665, 1666, 1999)) == pytest.approx([1, 1, 0.2, 0.2, 0.04, 0.04])
    assert rates("rded-soft", (0, 150, 240, 299)) == pytest.approx([1, 0.854, 0.655, 0.503], abs=5e-4)  # as its code gives
    assert rates("sre2l", (0, 150, 299)) == pytest.approx([1, 0.5, 2.74e-5], abs=1e-6)
    # EDC's cos2: (1 + cos(75 degrees)) / 2 = 0.6294 at 833.3 of 1,000 epochs, and at once a sixth of it.
    drop = rates("edc", (0, 500, 833, 834, 900, 999))
    assert drop == pytest.approx([1, 0.8536, 0.6296, 0.6294 * 0.166, 0.06294, 0.0006294], abs=1e-4)


def test_schedules_are_those_of_pytorch():
    parameter = torch.nn.Parameter(torch.zeros(1))
    schedulers = torch.optim.lr_scheduler

    def of_pytorch(build, epochs, rate):
        optimizer = torch.optim.SGD([parameter], rate)
        schedule, got = build(optimizer), []
        for _ in range(epochs):
            got.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            schedule.step()
        return got

    def ours(got):
        return [learning_rate(got, epoch) for epoch in range(got.epochs)]

    idc = settings("idc-hard", ipc=100)
    steps = [2 * 1000 // 3, 5 * 1000 // 6]
    assert ours(idc) == pytest.approx(of_pytorch(lambda o: schedulers.MultiStepLR(o, steps, gamma=0.2), 1000, 0.01))
    edc = settings("edc", size=32)
    assert ours(edc) == pytest.approx(of_pytorch(lambda o: schedulers.MultiStepLR(o, [800, 900, 950], 0.5), 1000, 0.001))
    cifar = settings("sre2l", size=32)
    assert ours(cifar) == pytest.approx(of_pytorch(lambda o: schedulers.CosineAnnealingLR(o, 400), 400, 0.001))

    def warmup(optimizer):
        parts = [schedulers.LinearLR(optimizer, 0.01, total_iters=5), schedulers.CosineAnnealingLR(optimizer, 95)]
        return schedulers.SequentialLR(optimizer, parts, milestones=[5])

    tiny = settings("sre2l", size=64)
    assert ours(tiny) == pytest.approx(of_pytorch(warmup, 100, 0.2))


def test_students_of_a_protocol():
    hard, soft = protocol("idc-hard"), protocol("rded-soft")
    assert hard.students("convnet-6,resnetap-10, resnet-18", 224) == ["convnet-6", "resnetap-10", "resnet-18"]
    assert hard.students("auto", 32) == ["convnet-3"] and soft.students("auto", 224) == ["resnet-18-bn"]
    assert hard.students("convnet-3,auto", 32) == ["convnet-3"]  # once
    assert soft.students("resnet-50-bn,timm/vit_tiny_patch16_224", 224) == ["resnet-50-bn", "timm/vit_tiny_patch16_224"]
    with pytest.raises(InputError, match="resnet-18-bn") as caught:  # the papers' ResNet-18 is not the one of this name
        soft.students("resnet-18", 224)
    assert caught.value.field == "students"
    with pytest.raises(InputError, match="convnet-5-bn"):
        soft.students("convnet-5", 128)


@pytest.mark.parametrize("name", PROTOCOLS)
def test_a_resnet_18_with_instance_norm_is_no_student_of_protocols_with_batchnorm(name):
    if name in ("rded-soft", "fkd", "sre2l", "lpld", "lpqld", "edc"):
        assert protocol(name).students("auto", 32) == ["resnet-18-bn"]
        with pytest.raises(InputError, match=f"students of {name} have BatchNorm: resnet-18-bn"):
            protocol(name).students("resnet-18", 32)
    elif name != "frozen":
        assert protocol(name).students("auto,resnet-18", 32) == ["convnet-3", "resnet-18"]


def test_an_uneven_set_counts_by_its_mean():
    assert Task(29, 3, 32, True, IMAGENET, "x").ipc == 10
    assert Task(1, 3, 32, True, IMAGENET, "x").ipc == 1
