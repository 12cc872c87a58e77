"""Names of networks, protocols and their students: what can be refused before anything heavy is imported."""

import math
import os
import re
from collections.abc import Sequence
from typing import Any, NoReturn

from distill_hub import extensions
from distill_hub.config import InputError, nearest

PROTOCOLS = (
    "quick", "dsa-hard", "dsa-soft", "idc-hard", "idc-hard-100", "rded-soft", "kd", "fkd", "sre2l", "lpld", "lpqld", "edc",
    "frozen",
)  # fmt: skip
WITH_BATCH_NORM = ("rded-soft", "fkd", "sre2l", "lpld", "lpqld", "edc")  # protocols whose papers' students have BatchNorm

FROZEN = ("frozen",)  # protocols whose students are trained networks, of which only the last layer is trained anew
BACKBONE = "timm/vit_small_patch16_224.dino"  # what auto is for these: DINO's ViT-S/16 (Caron et al., 2021)

# Networks: the arguments of `build.ResNet`, and names in torchvision.
INSTANCE_NORM: dict[str, dict[str, Any]] = {
    "resnet-10": {"blocks": (1, 1, 1, 1)},
    "resnet-18": {"blocks": (2, 2, 2, 2)},
    "resnetap-10": {"blocks": (1, 1, 1, 1), "average_pool": True},
}
# Not timm's of the same names: its ResNets start with the last scale of every block at zero.
TORCHVISION = {
    "resnet-18-bn": "resnet18",
    "resnet-50-bn": "resnet50",
    "resnet-101-bn": "resnet101",
    "efficientnet-b0": "efficientnet_b0",
    "mobilenet-v2": "mobilenet_v2",
    "shufflenet-v2": "shufflenet_v2_x1_0",
    "vgg-16": "vgg16",
    "vgg-16-bn": "vgg16_bn",
}
CONVNET = re.compile(r"convnet-([1-9][0-9]?)(?:-w([1-9][0-9]{0,3}))?(-bn)?")  # depth, width, BatchNorm
FITTED_GENERATORS = ("auto", "dit", "sit", "mar")  # what `--generator` calls those that may have to be fitted to a source
GENERATOR = "a pipeline with model_index.json and safetensors weights"
VAE = "an AutoencoderKL with config.json and safetensors weights, a Hub id or a folder,"
EXPERTS = "experts.json"  # the record of expert trajectories, in their folder
TEACHER = "timm/NAME, a Hub id or a folder with config.json and safetensors"


def is_own(name: str) -> bool:
    """Return whether a network is one of our own, see `build`, not of timm's, which have no dash in their names."""
    return CONVNET.fullmatch(name) is not None or name in INSTANCE_NORM or name in TORCHVISION


def more_networks() -> dict[str, extensions.Extension]:
    """Return the networks of other packages, by name; see `extensions.installed`."""
    return extensions.installed("networks", is_own)


def more_protocols() -> dict[str, extensions.Extension]:
    """Return the protocols of other packages, by name; see `extensions.installed`."""
    return extensions.installed("protocols", PROTOCOLS.__contains__)


def other_network(name: str) -> extensions.Extension | None:
    """Return the network of another package that is called so; None: there is none, or it is our own or timm's."""
    return None if is_own(name) or name.startswith("timm/") else more_networks().get(name)


def other_protocol(name: str) -> extensions.Extension | None:
    """Return the protocol of another package that is called so; None: there is none, or it is our own."""
    return None if name in PROTOCOLS else more_protocols().get(name)


def is_built(name: str) -> bool:
    """Return whether a network is one of our own or of another package, not of timm's."""
    return is_own(name) or other_network(name) is not None


def student_name(name: str, image_size: int) -> str:
    """Resolve 'auto' to the ConvNet whose depth suits the image: 2 at 16 px, 3 at 32, 4 at 64, 5 at 128, 6 at 224."""
    return f"convnet-{max(1, round(math.log2(image_size)) - 2)}" if name == "auto" else name


def small_networks(image_size: int) -> tuple[str, ...]:
    """Return networks with BatchNorm, of different depths and widths, that are soon fitted to small images.

    ConvNets alone: a MobileNetV2 and a ShuffleNetV2, which G-VBSM and EDC have, too, see a pixel in most of their layers at
    16 px.
    """
    depth = max(2, round(math.log2(image_size)) - 2)  # that of `student_name`
    return f"convnet-{depth}-bn", f"convnet-{depth}-w64-bn", f"convnet-{depth - 1}-bn"


def refuse_network(name: str, field: str, more: Sequence[str] = ()) -> NoReturn:
    """Say that there is no network of that name; `more` names may be what was meant."""
    known = ["convnet-D", "convnet-D-bn", "convnet-D-wW-bn", *INSTANCE_NORM, *TORCHVISION, *more_networks()]
    raise InputError(field, name, f"known: {', '.join(known)}, timm/NAME{nearest(name, [*known, *more])}")


def refuse_protocol(name: str) -> NoReturn:
    """Say that there is no protocol of that name."""
    known = [*PROTOCOLS, *more_protocols()]
    raise InputError("protocol", name, f"known: {', '.join(known)}{nearest(name, known)}")


def check_protocol(name: str) -> None:
    """Refuse a name that no protocol has, be it of ours or of another package.

    Raises:
        InputError: Naming what is known.
    """
    if name not in PROTOCOLS and other_protocol(name) is None:
        refuse_protocol(name)


def check_network(name: str, field: str) -> None:
    """Refuse a name that no network has. Which networks timm has, only timm knows; see `build.build`.

    Raises:
        InputError: Naming what is known; it blames the option `field`.
    """
    if name != "auto" and not name.startswith("timm/") and not is_built(name):
        refuse_network(name, field)


def split_students(names: str, protocol: str | None, *, with_batch_norm: bool | None = None) -> list[str]:
    """Split a comma-separated list of students.

    Args:
        names: Names of networks, 'auto' among them.
        protocol: What they are trained by; None: as the set's records say, which are not read yet.
        with_batch_norm: Whether its papers' students have BatchNorm; default: as known of our own.

    Raises:
        InputError: For an unknown student, one that has to be a trained network and cannot be one, or one that the
            protocol's papers use with another norm: the name alone would mislead.
    """
    students = [name.strip() for name in names.split(",")]
    if protocol in FROZEN:
        for name in students:
            check_teacher(name, "students")
        return students
    with_batch_norm = protocol in WITH_BATCH_NORM if with_batch_norm is None else with_batch_norm
    for name in students:
        if protocol is None and ("/" in name or os.path.isdir(name)):
            continue  # a trained network, where the set's records have a protocol for these
        check_network(name, "students")
        if with_batch_norm and name.startswith(("convnet-", "resnet-")) and not name.endswith("-bn"):
            raise InputError("students", name, f"it has instance norm; students of {protocol} have BatchNorm: {name}-bn")
    return students


def check_teacher(name: str, field: str = "teacher") -> None:
    """Refuse what cannot be a classifier's: neither auto nor timm/NAME, a folder of one, or a Hub id.

    Raises:
        InputError: Saying what is valid.
    """
    if name != "auto" and not name.startswith("timm/"):
        from distill_hub.hub import check_model  # not above: --help needs no Hub

        check_model(field, name, "config.json", TEACHER)


def split_teachers(names: str, revisions: str | None = None) -> list[tuple[str, str | None]]:
    """Split a comma-separated list of teachers that label together.

    Args:
        names: Names of classifiers.
        revisions: One for each, empty where it has none; None: none has.

    Returns:
        Name and revision of each.

    Raises:
        InputError: When one is named twice, be it by two paths, when a name is missing, or there are not as many revisions.
    """
    each = [name.strip() for name in names.split(",")]
    if len(each) > 1 and not all(each):
        raise InputError("teacher", names, "a name is missing before, between or after the commas")
    if len({os.path.realpath(name) if os.path.isdir(name) else name for name in each}) < len(each):
        raise InputError("teacher", names, "every teacher of several counts once")
    pinned = [part.strip() or None for part in revisions.split(",")] if revisions else [None] * len(each)
    if len(pinned) != len(each):
        raise InputError(
            "teacher_revision", revisions, f"of {len(each)} teachers, as many by commas, empty where one has none"
        )
    return list(zip(each, pinned, strict=True))


def check_teachers(names: str, revisions: str | None) -> None:
    """Refuse teachers of which one cannot be a classifier; see `check_teacher` and `split_teachers`.

    Raises:
        InputError: Saying what is valid.
    """
    for name, _ in split_teachers(names, revisions):
        check_teacher(name)


def check_one_teacher(names: str, why: str) -> None:
    """Refuse several teachers for what needs more of a network than its logits.

    Args:
        names: Of the teachers.
        why: What is done with a single one.

    Raises:
        InputError: When there are several.
    """
    if "," in names:
        raise InputError("teacher", names, f"{why}: name one teacher")


def is_fitted(generator: str) -> bool:
    """Whether `--generator` names a kind of which a small one is fitted, not a generator that is somewhere."""
    return generator in FITTED_GENERATORS


def check_generator(name: str) -> None:
    """Refuse what cannot be a generator's: neither a kind, nor the folder of a pipeline, nor a Hub id.

    Raises:
        InputError: Saying what is valid.
    """
    if not is_fitted(name):
        from distill_hub.hub import check_model  # as above

        check_model("generator", name, "model_index.json", f"{GENERATOR} is needed")


def check_experts(name: str) -> None:
    """Refuse what cannot be expert trajectories: neither auto, nor a folder of them, nor a Hub id.

    Raises:
        InputError: Saying what is valid.
    """
    if name != "auto":
        from distill_hub.hub import check_model  # as above

        check_model("experts", name, EXPERTS, f"a folder or Hub id of experts with {EXPERTS} is needed")


def check_vae(name: str | None) -> None:
    """Refuse what cannot be a VAE's: neither a folder of one, nor a Hub id; None is no name.

    Raises:
        InputError: Saying what is valid.
    """
    if name is not None:
        from distill_hub.hub import check_model  # as above

        check_model("vae", name, "config.json", f"{VAE} is needed")
