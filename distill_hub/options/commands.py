"""Settings of what works on a set that exists already: the commands of `distill-hub`, and evaluate, relabel and adopt."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distill_hub.config import argument, option
from distill_hub.coresets.names import check_dynamics, split_baselines
from distill_hub.data.known import Normalization
from distill_hub.data.prompts import check_prompts
from distill_hub.disk.files import check_files
from distill_hub.kinds import Fraction, Location, NonNegativeInt, Pixels, PositiveFloat, PositiveInt
from distill_hub.networks.names import (
    check_experts,
    check_generator,
    check_one_teacher,
    check_protocol,
    check_teacher,
    check_teachers,
    check_vae,
    split_students,
)
from distill_hub.options.shared import (
    BASELINE_DYNAMICS_HELP,
    BASELINES_HELP,
    DRY_RUN_HELP,
    FULL_DATA_HELP,
    GATED_HELP,
    PROTOCOL_HELP,
    KeptLabelsOptions,
    OutputOptions,
    StudentOptions,
)
from distill_hub.options.tracking import TrackingOptions


@dataclass(frozen=True)
class InfoConfig:
    """The set."""

    location: Location = argument("a distilled set: folder, or id on the Hub")
    revision: str | None = option(None, "branch, tag or commit on the Hub", common=True)


@dataclass(frozen=True)
class CompareConfig:
    """The sets."""

    locations: list[Location] = argument("distilled sets: folders, or ids on the Hub")
    html: Path | None = option(None, "write the comparison to this file, as one page with previews and plots", common=True)
    json: Path | None = option(None, "write the rows to this file, with unrounded numbers", common=True)

    def check_settings(self) -> None:
        """Refuse files that cannot be written."""
        check_files(html=self.html, json=self.json)


@dataclass(frozen=True)
class PushConfig:
    """Publishing."""

    path: Location = argument("folder of a distilled set, classifier, student, tuned generator, or of experts")
    repository: str = argument("NAMESPACE/NAME on the Hub; auto: its own name, in your namespace", "auto")
    private: bool = option(False, "make a new repository private; one that exists must already be", common=True)
    revision: str | None = option(None, "branch to publish to; made when there is none; default main", common=True)
    create_pr: bool = option(False, "open a pull request instead of committing", common=True)
    tag: str | None = option(None, "tag the commit, e.g. v1", common=True)
    gated: Literal["auto", "manual"] | None = option(None, GATED_HELP, common=True)
    teacher: str | None = option(
        None,
        "of a set: the id under which its teacher was published meanwhile, of several by commas; its manifest then names "
        "it, and others fetch it in place of fitting one",
        common=True,
    )


@dataclass(frozen=True)
class EnvConfig:
    """What a bug report needs."""


@dataclass(frozen=True)
class NewMethodConfig:
    """The package."""

    name: str = argument("of the method, and of its Python package: lower-case letters, digits and '_'")
    output_dir: Path | None = option(None, "folder of the package; default: one of that name", common=True)


@dataclass(frozen=True)
class RealOptions:
    """The real dataset: by default what a set's own record names."""

    source: Location | None = option(
        None, "a known name (digits, cifar10, imagewoof, ...), a Hub dataset id, or a local folder", common=True
    )
    source_revision: str | None = option(None, "branch, tag or commit of the Hub dataset")
    source_config: str | None = option(None, "its configuration, when it has several")
    image_column: str | None = option(None, "its image column, when it cannot be detected")
    label_column: str | None = option(None, "its label column, when it cannot be detected")
    train_split: str | None = option(None, "name of its training split, when it is not train")
    test_split: str | None = option(None, "name of its test split, when it cannot be detected")
    test_fraction: Fraction = option(0.0, "hold out this share of its training split (seeded) as test split")
    mirrored: Literal["yes", "no"] | None = option(
        None, "whether a mirrored image still shows its class; default: as recorded or known"
    )
    normalization: Normalization | None = option(
        None, "mean and deviation of its images of at most 64 px; default: as recorded or known, else imagenet"
    )

    def check_settings(self) -> None:
        """Refuse a source that does not exist."""
        from distill_hub.data.known import check_source

        if self.source:
            check_source(self.source)


def _check_set(config: "EvaluateConfig | RelabelConfig | AdoptConfig | ReproduceConfig", revisions: str | None) -> None:
    from distill_hub.hub import check_location

    check_location(config.location)
    if config.teacher:
        check_teachers(config.teacher, revisions)


@dataclass(frozen=True)
class ForeignOptions:
    """What a set made elsewhere does not say of itself."""

    classes: Location | None = option(
        None,
        "class of each label: a file with one name or wnid per line or id2label JSON, a comma-separated list, source for "
        "the source's order, or imagenet1k, imagenette, imagewoof, imageidc, imagenet100 for the papers' order",
        common=True,
    )
    data_dir: str | None = option(None, "sub-folder of the repository that holds the set")
    split: str | None = option(None, "which of several splits or configurations is the set", common=True)
    index: NonNegativeInt | None = option(None, "which of several sets in one file of tensors, e.g. runs or steps, from 0")
    set_image_column: str | None = option(None, "image column of the set, when it cannot be detected")
    set_label_column: str | None = option(None, "label column of the set, when it cannot be detected")
    image_size: Pixels | None = option(None, "scale and crop to this side in pixels; where sizes differ, one is chosen")
    mean: str | None = option(None, "mean of normalised tensors, one or three numbers, e.g. 0.485,0.456,0.406")
    std: str | None = option(None, "standard deviation of normalised tensors, one or three numbers")
    pixel_range: PositiveFloat | None = option(
        None, "full brightness in tensors, e.g. 255; default 1, or 255 for whole numbers"
    )
    max_clipped: Fraction | None = option(
        None, "share of values that may lie outside the range of pixels once mean and std are undone; default 0.01"
    )
    label_kind: Literal["probabilities", "logits", "centred"] | None = option(
        None, "what soft labels are, where their values do not tell; centred: probabilities less 1 / classes"
    )


@dataclass(frozen=True, kw_only=True)
class EvaluateConfig(TrackingOptions, StudentOptions, ForeignOptions, RealOptions):
    """The set and its students."""

    location: Location = argument("a distilled set: folder, or id on the Hub")
    revision: str | None = option(None, "branch, tag or commit on the Hub", common=True)
    protocol: str | None = option(None, PROTOCOL_HELP + "; default: as the set's record says, or quick", common=True)
    students: str | None = option(
        None,
        "student networks, comma-separated: convnet-D, resnetap-10, resnet-18, resnet-18-bn, ..., timm/NAME; "
        "default: as the set's record says",
        common=True,
    )
    repeats: PositiveInt | None = option(None, "students per set; default: as the set's record says, else 3", common=True)
    baselines: str | None = option(
        None, BASELINES_HELP + "; default: random, unless the set's record brings baselines", common=True
    )
    baseline_dynamics: Location = option("auto", BASELINE_DYNAMICS_HELP)
    teacher: Location | None = option(
        None,
        "for protocols whose labels a teacher gives: timm/NAME, a Hub id, a folder, or auto to fit one; "
        "several by commas; default: as the set's record says",
        common=True,
    )
    teacher_revision: str | None = option(
        None, "branch, tag or commit of the teacher on the Hub; of several one each, by commas"
    )
    dd_ranking: bool = option(False, "also train what DD-Ranking's scores LRS and ARS compare with, real data among it")
    real_accuracy: Fraction | None = option(
        None, "for LRS: accuracy, as a fraction, of the student on all real data with hard labels, where it is known"
    )
    full_data: bool = option(False, FULL_DATA_HELP, common=True)
    mmd: bool = option(False, "also measure the distance between the teacher's features of the set and of the real images")
    save_students: Location | None = option(
        None,
        "keep the students that are trained on the set in this folder, each as a classifier for --teacher and push",
        common=True,
    )
    check: bool = option(False, "exit with code 1 when a measured accuracy does not agree with the claimed one", common=True)
    json: Path | None = option(None, "write claimed and measured records to this file", common=True)
    dry_run: bool = option(False, DRY_RUN_HELP, common=True)
    submit: bool = option(False, "open a pull request on the Hub that adds the measured records to the set", common=True)
    even_if_collapsed: bool = option(False, "with --submit: send scores of students that did not train, too")

    def check_settings(self) -> None:
        """Refuse a set, a teacher, a protocol and students that do not exist, and a file that cannot be written."""
        _check_set(self, self.teacher_revision)
        if self.protocol:
            check_protocol(self.protocol)
        if self.mmd and self.teacher:
            check_one_teacher(self.teacher, "--mmd measures the embeddings of one network")
        check_files(json=self.json)
        if self.students:
            split_students(self.students, self.protocol)
        if self.baselines:
            split_baselines(self.baselines)
        check_dynamics(self.baseline_dynamics, "baseline_dynamics")


@dataclass(frozen=True, kw_only=True)
class RelabelConfig(KeptLabelsOptions, RealOptions):
    """The set and its views."""

    location: Location = argument("folder of a distilled set")
    epochs: PositiveInt = option(300, "epochs of views; every epoch holds every image once", common=True)
    batch_size: PositiveInt | None = option(
        None,
        "images that CutMix mixes among each other, and batch size of the students; default: 1,024 for 1,000 classes, where "
        "lpld and lpqld have 128, and else 128",
    )
    seed: NonNegativeInt = option(0, "seed of the views")
    teacher: Location | None = option(
        None,
        "timm/NAME, a Hub id, a folder, or auto to fit one; several by commas; default: as the set's record says",
        common=True,
    )
    teacher_revision: str | None = option(
        None, "branch, tag or commit of the teacher on the Hub; of several one each, by commas"
    )
    dry_run: bool = option(False, DRY_RUN_HELP, common=True)

    def check_settings(self) -> None:
        """Refuse a set and a teacher that do not exist."""
        _check_set(self, self.teacher_revision)


@dataclass(frozen=True, kw_only=True)
class AdoptConfig(OutputOptions, ForeignOptions, RealOptions):
    """The set and where it comes from."""

    location: Location = argument(
        "folder of images or tensors, .zip, .safetensors, .npy, .npz or .pt file, or id on the Hub"
    )
    revision: str | None = option(None, "branch, tag or commit on the Hub", common=True)
    method: str | None = option(
        None, "the method that made it: letters, digits and dashes; enters the name of the set", common=True
    )
    title: str | None = option(None, "the method's name as people write it")
    paper: str | None = option(None, "URL of the method's paper")
    license: str | None = option(None, "licence of the set")
    teacher: Location | None = option(
        None,
        "label the images with this teacher: timm/NAME, a Hub id, a folder, or auto to fit one; several by commas",
        common=True,
    )
    teacher_revision: str | None = option(
        None, "branch, tag or commit of the teacher on the Hub; of several one each, by commas"
    )
    teacher_epochs: PositiveInt | None = option(None, "epochs when the teacher is fitted; default by size of the source")
    fit_seed: NonNegativeInt = option(0, "seed of the fit of the teacher")

    def check_settings(self) -> None:
        """Refuse a set and a teacher that do not exist."""
        _check_set(self, self.teacher_revision)


@dataclass(frozen=True, kw_only=True)
class ReproduceConfig(RealOptions):
    """The set, and what lies elsewhere now."""

    location: Location = argument("a distilled set: folder, or id on the Hub")
    revision: str | None = option(None, "branch, tag or commit on the Hub", common=True)
    generator: Location | None = option(
        None, "where its generator lies now: Hub id or folder; default: as the set's record says", common=True
    )
    vae: Location | None = option(
        None, "where the VAE lies now that decoded in place of its generator's own; default: as the set's record says"
    )
    prompts: Location | None = option(None, "where the file of its prompts lies now; default: as the set's record says")
    teacher: Location | None = option(
        None, "where its teacher lies now: Hub id or folder, of several all; default: as the set's record says", common=True
    )
    selector: Location | None = option(
        None, "where its selector lies now, if that is not its teacher; default: as the set's record says"
    )
    experts: Location | None = option(None, "where its experts lie now: Hub id or folder; default: as the set's record says")
    dynamics: Location | None = option(
        None, "where the classifiers lie now by whose training dynamics it was chosen; default: as the set's record says"
    )
    print_command: bool = option(False, "print the line that would be run, and stop", common=True)
    output_dir: Path | None = option(None, "folder of the rebuild; default outputs/<name>-reproduced", common=True)
    overwrite: bool = option(False, "replace what the folder holds; finished stages that still fit are used", common=True)
    json: Path | None = option(None, "write what was compared to this file", common=True)

    def check_settings(self) -> None:
        """Refuse a set and networks that do not exist, and a folder or a file that cannot be written to."""
        from distill_hub.disk.files import check_folder

        _check_set(self, None)
        check_files(json=self.json)
        if self.generator:
            check_generator(self.generator)
        check_vae(self.vae)
        check_prompts(self.prompts)
        if self.selector:
            check_teacher(self.selector, "selector")
        if self.experts:
            check_experts(self.experts)
        if self.dynamics:
            check_dynamics(self.dynamics)
        check_folder(self.output_dir or Path("outputs"))
