"""How a student is trained: the literature's protocols, named, versioned, frozen. What moves a number raises the version.

Each protocol is a function from a task (which set, which student) to settings (every number of a training). Facts come from
the papers and from the authors' code at the commits named; where that code has a quirk, the protocol says whether it takes
it: one that defines the published numbers is a field of `Settings`, one that only hurts is left out.
"""

import dataclasses
import functools
import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from distill_hub.augmentation.augment import Augmentation
from distill_hub.augmentation.dsa import operations
from distill_hub.config import InputError
from distill_hub.data.known import NORMALIZATIONS
from distill_hub.networks.build import check_student
from distill_hub.networks.names import (
    BACKBONE,
    FROZEN,
    WITH_BATCH_NORM,
    check_teacher,
    other_protocol,
    refuse_protocol,
    split_students,
    student_name,
)
from distill_hub.training.edc import edc
from distill_hub.training.frozen import frozen
from distill_hub.training.post_training import fkd, lpld, lpqld, sre2l
from distill_hub.training.settings import Settings, Task


@dataclass(frozen=True)
class Protocol:
    """A named way to train students."""

    name: str
    version: int
    settings: Callable[[Task], Settings]
    # As in `Settings`; "views or teacher": those of stored views where the set has them, else a teacher's.
    labels: Literal["hard", "soft", "teacher", "views", "views or teacher"]
    with_batch_norm: bool = False  # whether students that have BatchNorm or instance norm are meant with BatchNorm

    @property
    def frozen(self) -> bool:
        """Whether students are trained networks, of which only the last layer is trained anew; see `training.frozen`."""
        return self.name in FROZEN

    def resolved(self, *, views: bool) -> "Protocol":
        """Return the protocol for one set, which has stored views or not: where its labels come from is settled then."""
        if self.labels != "views or teacher":
            return self
        return dataclasses.replace(self, labels="views" if views else "teacher")

    def view_epochs(self, image_size: int) -> int:
        """Return for how many epochs students replay stored views of a side: `lpld` has fewer up to 64 px."""
        neutral = {"mirrored": False, "normalization": NORMALIZATIONS["imagenet"], "student": ""}
        return self.settings(Task(images=1, classes=2, image_size=image_size, views_batch_size=1, **neutral)).epochs

    def students(self, names: str, image_size: int) -> list[str]:
        """Resolve a comma-separated list of students.

        Raises:
            InputError: See `networks.names.split_students`.
        """
        auto = "resnet-18-bn" if self.with_batch_norm else BACKBONE if self.frozen else student_name("auto", image_size)
        named = split_students(names, self.name, with_batch_norm=self.with_batch_norm)
        return list(dict.fromkeys(auto if name == "auto" else name for name in named))

    def check_students(self, names: str, num_classes: int, image_size: int) -> None:
        """Refuse students that cannot be trained on such images.

        Args:
            names: See `students`.
            num_classes: Number of classes.
            image_size: Side of the set's images in pixels.

        Raises:
            InputError: See `networks.names.split_students` and `networks.build.check_student`.
        """
        for student in self.students(names, image_size):
            self.check_student(student, num_classes, image_size)

    def check_student(self, student: str, num_classes: int, image_size: int) -> None:
        """Refuse one of them, see `check_students`; what images a trained network takes is seen when it is opened."""
        if self.frozen:
            check_teacher(student, "students")
        else:
            check_student(student, num_classes, min(224, image_size))


def _quick(task: Task) -> Settings:
    """About 100 steps of SGD on hard labels, for smoke runs."""
    epochs, size = math.ceil(100 / math.ceil(task.images / 50)), min(224, task.image_size)
    return Settings(
        epochs=epochs,
        batch_size=50,
        optimizer="sgd",
        learning_rate=0.05,
        weight_decay=5e-4,
        decay_all=True,
        schedule="cosine-steps",
        augmentation=Augmentation(pad=0.125),
        image_size=size,
        test_resize=size,
        looks=tuple(sorted({math.ceil(epochs * look / 5) for look in range(1, 6)})),
        non_standard="it is for smoke runs, and no paper has numbers of it",
    )


def _dsa_hard(task: Task) -> Settings:
    """The training of dataset condensation since DSA (Zhao and Bilen, 2021), of DC-BENCH and DD-Ranking, too.

    Code: VICO's DatasetCondensation 53f63a6, mtt-distillation. A set whose method learned a learning rate is trained at it,
    as in MTT's family. Taken: one look at the test split, at the end; one operation of DSA per batch. Not taken: the 1,001st
    epoch; that the learning rate falls after 502 of them, not 500; that momentum is lost there, as the optimiser is built
    anew; and for DC, which has no augmentation, its 300 epochs. MTT's family prints the best of many looks in the course of
    the distillation.
    """
    size = min(224, task.image_size)
    mean, std = task.normalization if size <= 64 else NORMALIZATIONS["imagenet"]
    return Settings(
        epochs=1000,
        batch_size=256,
        optimizer="sgd",
        learning_rate=0.01,
        learned_rate=task.student_rate,
        weight_decay=5e-4,
        decay_all=True,
        schedule="halfway",
        augmentation=Augmentation(dsa=operations(task.mirrored)),
        image_size=size,
        test_resize=size,
        looks=(1000,),
        mean=mean,
        std=std,
    )


def _dsa_soft(task: Task) -> Settings:
    """DATM's training (Guo et al., 2024): `dsa-hard` with cross-entropy to the soft labels, which its sets learned."""
    return dataclasses.replace(_dsa_hard(task), labels="soft")


def idc_epochs(ipc: int, classes: int) -> int:
    """Return the epochs of IDC's ImageNet schedule; with its multi-formation factor f, pass ipc * f^2."""
    bounds = {1: 3000, 10: 2000, 50: 1500, 200: 1000, 500: 500}
    epochs = next((epochs for bound, epochs in bounds.items() if ipc <= bound), 300)
    return 2 * epochs // 3 // 100 * 100 if classes == 100 else epochs


def _idc_exception(task: Task) -> str | None:
    """Return what IDC trains in a way of its own and `idc-hard` does not; a source is known by its normalisation."""
    if task.normalization in (NORMALIZATIONS["mnist"], NORMALIZATIONS["fashion-mnist"]):
        return (
            "IDC's images here have one channel and its first convolution a padding of 3; these students see three channels"
        )
    if task.normalization == NORMALIZATIONS["svhn"] and task.ipc == 1:
        return "IDC trains on one image per class of SVHN with cutout, not CutMix"
    return None


def _idc_hard(task: Task, large: int = 101) -> Settings:
    """IDC's training on hard labels (Kim et al., 2022), of the tables of Minimax Diffusion, DGS and CaO2.

    From `large` classes on its steps and batches are larger: in Minimax's copy of the code above 100 classes, in IDC's own
    from 100 on, which is `idc-hard-100`. At any other number of classes the two are one.

    Code: IDC ceac95a, MinimaxDiffusion 969fc6f. Taken as it is: test images scaled to the student's size without the usual
    margin; colour jitter by interpolation without clamping; weight decay on norms and biases. Not taken: one seed for all
    repeats; `best` instead of `last` as the headline; deviations over best instead of last. On small images IDC looks at the
    test split once, at the end.
    """
    common = {"optimizer": "sgd", "decay_all": True, "schedule": "multistep"}
    if task.image_size <= 64:
        mean, std = task.normalization
        return Settings(
            epochs=1000,
            batch_size=64,
            learning_rate=0.01,
            weight_decay=5e-4,
            augmentation=Augmentation(flip=task.mirrored, siamese=True, mix="cutmix", mix_probability=0.5),
            image_size=task.image_size,
            test_resize=task.image_size,
            looks=(1000,),
            mean=mean,
            std=std,
            non_standard=_idc_exception(task),
            **common,
        )
    epochs, size, is_large = idc_epochs(task.ipc, task.classes), min(224, task.image_size), task.classes >= large
    return Settings(
        epochs=epochs,
        batch_size=128 if is_large else 64,
        learning_rate=0.1 if is_large else 0.01,
        weight_decay=1e-4 if is_large else 5e-4,
        augmentation=Augmentation(crop_scale=(0.5, 1.0), flip=task.mirrored, jitter=0.4, lighting=0.1, mix="cutmix"),
        image_size=size,
        test_resize=size,
        looks=tuple(range(epochs // 100, epochs + 1, epochs // 100)),
        **common,
    )


def _kd(task: Task) -> Settings:
    """Pool-Select-Refine's distillation (Eq. 11): tau^2 KL to the stored soft labels.

    The paper has one tau, of the cached labels and of this loss (Alg. 1): a set of its method brings it. Others get the
    paper's 1.5. Of the training it states the loss alone and compares with tables made by IDC's, so the rest is `idc-hard`.
    CutMix mixes the soft labels as it mixes hard ones.
    """
    temperature = task.label_temperature or 1.5
    return dataclasses.replace(_idc_hard(task), labels="soft", temperature=temperature, temperature_squared=True)


RDED_RATES = {  # by family, of which RDED's code lists one member or a few
    r"resnet-?\d|convnet-\d": 0.001,
    r"efficientnet[-_]b\d": 0.002,
    r"mobilenet-?v2": 0.0025,
    r"vgg-?\d": 0.0005,
    r"vit_|swinv2_": 0.0001,
}


def rded_learning_rate(student: str) -> float | None:
    """Return RDED's learning rate for a student's family; None: its code lists no such student."""
    name = student.removeprefix("timm/")
    return next((rate for family, rate in RDED_RATES.items() if re.match(family, name)), None)


def _rded_soft(task: Task) -> Settings:
    """RDED's validation (Sun et al., 2024), of the tables of RDED and CaO2: a teacher labels every mixed batch.

    Code: RDED 3f6453d. Taken, as they define the published numbers: the cosine over twice the epochs, which ends at half the
    learning rate; BatchNorm statistics that take in every batch twice (its second forward pass, for the log alone, sees the
    same batch and weights); ImageNet's normalisation on every source; crops of at least 1/f of the area, whatever
    --min-scale-crops says, and of the stored image, which is not scaled to the student's size first; six looks at the test
    split. Not taken: learning rate 0 for students it does not list (here: 0.001, and non-standard), and no batch size for
    IPC other than 1, 10 and 50 (here: that of the next smaller one).

    Its teachers see the mixed batch as it is. That matters where students ConvNet-5 and -6 take it down to 128 px: a ResNet
    sees 128 px here, too, whatever it was trained on. Other teachers, some of which run at one size alone, see every batch
    at theirs. Not taken: that a teacher ConvNet-5 or -6 takes other students down to 128 px.
    """
    small = task.image_size <= 64
    goes_down = task.student in ("convnet-5-bn", "convnet-6-bn")
    size = min(task.image_size, 128 if goes_down else 224)
    batch_size = 100 if task.ipc >= 50 else 50 if task.ipc >= 10 else 10
    if task.classes == 200:
        batch_size = 100
    elif task.classes >= 100:
        batch_size *= 2
    listed = rded_learning_rate(task.student)
    rate = listed or 0.001
    # Its own exception for CIFAR-100, from ConvNet to ConvNet.
    if (
        task.student == "convnet-3-bn"
        and (task.teacher or "").startswith("convnet-3")
        and task.classes == 100
        and size <= 32
    ):
        batch_size, rate = 25, 0.002
    factor = 1 if small else 2
    return Settings(
        epochs=300,
        batch_size=min(batch_size, task.images),
        optimizer="adamw",
        learning_rate=rate,
        weight_decay=0.01,
        decay_all=False,
        schedule="half-cosine",
        augmentation=Augmentation(patches=factor, crop_scale=(1 / factor, 1.0), flip=task.mirrored, mix="cutmix"),
        image_size=size,
        test_resize=size // 7 * 8,
        looks=(250, 260, 270, 280, 290, 300),
        labels="teacher",
        crops_stored=True,
        teacher_as_is=goes_down and size == 128 and (task.teacher or "").startswith("resnet"),
        temperature=20.0,
        batchnorm_updates=2,
        non_standard=None if listed else f"RDED's code has no learning rate for this student; {rate} is our choice",
    )


PROTOCOLS = {
    known.name: dataclasses.replace(known, with_batch_norm=known.name in WITH_BATCH_NORM)
    for known in (
        Protocol("quick", 2, _quick, "hard"),
        Protocol("dsa-hard", 1, _dsa_hard, "hard"),
        Protocol("dsa-soft", 1, _dsa_soft, "soft"),
        Protocol("idc-hard", 2, _idc_hard, "hard"),
        Protocol("idc-hard-100", 1, functools.partial(_idc_hard, large=100), "hard"),
        Protocol("rded-soft", 2, _rded_soft, "teacher"),
        Protocol("kd", 2, _kd, "soft"),
        Protocol("fkd", 2, fkd, "views"),
        Protocol("sre2l", 2, sre2l, "teacher"),
        Protocol("lpld", 2, lpld, "views or teacher"),
        Protocol("lpqld", 1, lpqld, "views"),
        Protocol("edc", 1, edc, "teacher"),
        Protocol("frozen", 1, frozen, "hard"),
    )
}


def protocol(name: str, version: int | None = None) -> Protocol:
    """Return a protocol by name, be it of ours or of another package.

    Raises:
        InputError: When it is unknown, or known in another version than the one asked for; or its package is broken.
    """
    found, whose = PROTOCOLS.get(name), "this version of distill_hub"
    if found is None:
        known = other_protocol(name) or refuse_protocol(name)
        found, whose = known.load(), known.origin
        if not (isinstance(found, Protocol) and found.name == name):
            raise known.broken(f"{known.entry.value} is no Protocol of that name")
    if version not in (None, found.version):
        valid = f"{whose} knows version {found.version}; --protocol {name} scores the set under that one"
        raise InputError("protocol", f"{name} version {version}", valid)
    return found
