"""Groups of options that several recipes have, as mixins: ``--help`` shows them under one heading everywhere.

A group checks its own names and paths, see `config.check_settings`, and imports what it needs for that only then: ``--help``
must not wait for it.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from distill_hub.config import InputError, option
from distill_hub.coresets.names import CORESETS, OF_DYNAMICS, check_dynamics, split_baselines
from distill_hub.data.known import Normalization
from distill_hub.data.prompts import check_prompts
from distill_hub.data.tiles import MOST_TILES, can_hold
from distill_hub.kinds import Fraction, Location, NonNegativeFloat, NonNegativeInt, Pixels, PositiveInt
from distill_hub.networks.names import (
    check_generator,
    check_one_teacher,
    check_protocol,
    check_teacher,
    check_teachers,
    check_vae,
    split_students,
)
from distill_hub.options.tracking import TrackingOptions

PROTOCOL_HELP = (
    "how the students are trained: quick (smoke runs, not of the literature), dsa-hard (DC, DSA, DM, MTT; DC-BENCH, "
    "DD-Ranking), dsa-soft (the same on the set's soft labels: DATM), idc-hard (Minimax, DGS, CaO2), idc-hard-100 (IDC at "
    "100 classes, where Minimax differs), rded-soft (RDED, CaO2), kd (Pool-Select-Refine), fkd (stored views), sre2l "
    "(SRe2L; DEDA on CIFAR), lpld (LPLD; DEDA on larger images), lpqld (LPQLD, stored views), edc (EDC), or one that an "
    "installed package adds"
)

FULL_DATA_HELP = (
    "also train students on all real images, with hard labels and as many epochs; --dry_run says how long that takes"
)
BASELINES_HELP = (
    "real images, as many as the set has, that the same students are trained on beside it, comma-separated: random, and the "
    f"coresets {', '.join(CORESETS)}"
)
BASELINE_DYNAMICS_HELP = f"as --dynamics of recipes/coreset.py, for the baselines {', '.join(OF_DYNAMICS)}"
COMPILE_SET_HELP = (
    "also compile the networks that make the set: a minute or so that long runs gain back; the numbers are others by "
    "rounding, and so is the set"
)
GATED_HELP = (
    "whoever reads a new repository must accept its terms: auto: and is let in at once, manual: once you agree; for images "
    "that may not be passed on to all, such as ImageNet's own"
)
DRY_RUN_HELP = "work on the first chunk of every stage, print what the whole would take, and keep nothing"


@dataclass(frozen=True)
class SourceOptions:
    """Source: the real images."""

    source: Location = option(
        "digits", "a known name (digits, cifar10, imagewoof, ...), a Hub dataset id, or a local folder", common=True
    )
    source_revision: str | None = option(None, "branch, tag or commit of the Hub dataset")
    source_config: str | None = option(None, "configuration of the dataset, when it has several")
    image_column: str | None = option(None, "image column, when it cannot be detected")
    label_column: str | None = option(None, "label column, when it cannot be detected")
    train_split: str | None = option(None, "name of the training split, when it is not train")
    test_split: str | None = option(None, "name of the test split, when it cannot be detected")
    test_fraction: Fraction = option(
        0.0, "hold out this share of the training split (seeded) when there is no test split", common=True
    )
    mirrored: Literal["yes", "no"] | None = option(
        None,
        "whether a mirrored image still shows its class, as a digit does not; default: as known of the dataset, else yes",
    )
    normalization: Normalization | None = option(
        None, "mean and deviation of images of at most 64 px; default: as known of the dataset, else imagenet"
    )

    def check_settings(self) -> None:
        """Refuse a source that does not exist."""
        from distill_hub.data.known import check_source

        check_source(self.source)


@dataclass(frozen=True)
class GeneratorFitOptions:
    """Fitting a small generator: used when no pretrained one is named or known for the source."""

    fit_image_size: Pixels | None = option(None, "side of the square images in pixels; detected when all agree", common=True)
    fit_vae_steps: PositiveInt = option(300, "optimiser steps of the autoencoder")
    fit_dit_steps: PositiveInt = option(3000, "optimiser steps of the transformer", common=True)
    fit_batch_size: PositiveInt = option(32, "images per optimiser step")
    fit_dit_width: PositiveInt = option(96, "width of the transformer, a multiple of 32")
    fit_dit_layers: PositiveInt = option(4, "blocks of the transformer")
    fit_vae_width: PositiveInt = option(16, "channels of the autoencoder's first level")
    fit_seed: NonNegativeInt = option(0, "seed of the fits of generator and teacher")


@dataclass(frozen=True)
class GeneratorOptions:
    """Generator: what draws the candidates. Each kind has defaults of its own."""

    generator: Location = option(
        "auto",
        "Hub id or folder of a pipeline, tuned or not; dit, sit, mar: fit a small one of that kind; auto: "
        "facebook/DiT-XL-2-256 for ImageNet, else dit",
        common=True,
    )
    generator_revision: str | None = option(None, "branch, tag or commit of the generator on the Hub")
    scheduler: Literal["ddpm", "ddim", "dpm-solver++", "heun", "euler", "sde"] | None = option(
        None,
        "sampler; of a DiT ddpm (default), ddim or dpm-solver++; of Stable Diffusion the same, but default ddim; of a SiT "
        "heun (default), euler or sde",
    )
    sample_steps: PositiveInt | None = option(None, "steps per sample; default: 50, of a MAR 64")
    guidance_scale: NonNegativeFloat | None = option(
        None,
        "classifier-free guidance, 1 switches it off; default: 2.7 (CaO2's code), of a MAR 2.9, of Stable Diffusion 7.5",
        common=True,
    )
    head_steps: Annotated[int, (">", 1), ("<=", 1000)] | None = option(
        None, "denoising steps of a MAR's head in each of its steps; default: 100"
    )
    head_temperature: NonNegativeFloat | None = option(None, "scale of the noise that a MAR's head adds; default: 1")
    timestep_features: Literal["auto", "dit", "diffusers"] | None = option(
        None,
        "how a DiT is told its timestep, by sinusoids with the exponent i/128 (dit: weights from DiT's own code) or i/127 "
        "(diffusers); default: auto, which is dit for facebook/DiT-XL-2-256 and what was tuned from it, else diffusers",
    )
    guided_channels: PositiveInt | None = option(
        None, "latent channels that guidance acts on, from the first: 3 in DiT's own code; default: all, as in diffusers"
    )
    vae: Location | None = option(
        None,
        "Hub id or folder of an AutoencoderKL that decodes in place of the generator's own, which encodes real images; "
        "the codes of DiT, Minimax and CaO2 have stabilityai/sd-vae-ft-mse",
    )
    vae_revision: str | None = option(None, "branch, tag or commit of that VAE on the Hub")
    prompts: Location | None = option(
        None,
        "YAML or JSON file of 'class name or wnid: prompt' for Stable Diffusion; default, and of classes that it "
        "does not name: --prompt_template",
    )
    prompt_template: str | None = option(
        None, "prompt of a class, whose name goes to {} ({} alone in D4M); default: a photo of a {}"
    )
    negative_prompt: str | None = option(
        None,
        "what guidance of Stable Diffusion leads away from, and its images without a class show; default: empty",
    )
    compile_set: bool = option(False, COMPILE_SET_HELP)

    def check_settings(self) -> None:
        """Refuse a generator or VAE that does not exist, and a revision of no VAE."""
        check_generator(self.generator)
        check_vae(self.vae)
        check_prompts(self.prompts)
        if self.vae_revision and not self.vae:
            raise InputError("vae_revision", self.vae_revision, "no --vae is named; name it, or leave the option out")


@dataclass(frozen=True)
class TeacherOptions:
    """Teacher: the classifier that writes the soft labels, and selects where no other one is named."""

    teacher: Location = option(
        "auto",
        "timm/NAME, a Hub id, or a folder; where it labels and no more, several by commas, whose logits are "
        "combined; auto: timm/resnet18.tv_in1k for ImageNet, else fit a ConvNet",
        common=True,
    )
    teacher_revision: str | None = option(
        None, "branch, tag or commit of the teacher on the Hub; of several one each, by commas"
    )
    teacher_epochs: PositiveInt | None = option(None, "epochs when the teacher is fitted; default by size of the source")

    def check_settings(self) -> None:
        """Refuse a teacher that does not exist."""
        check_teachers(self.teacher, self.teacher_revision)


@dataclass(frozen=True)
class SelectorOptions:
    """Selector: the classifier that judges the candidates."""

    selector: Location = option("auto", "timm/NAME, a Hub id, or a folder; auto: the teacher")
    selector_revision: str | None = option(
        None, "branch, tag or commit of the selector on the Hub; of auto it is the teacher's"
    )
    selector_resize: Pixels | None = option(
        None,
        "side in pixels to which images are scaled, of which the selector sees the middle at its own size; default: it sees "
        "whole images (DGS's code: the middle 224 of 256)",
    )
    judged_over: Literal["all", "set"] = option(
        "all",
        "classes that its predictions and probabilities are over: all that it knows (papers: the 1,000 of ImageNet), or "
        "those of the set",
    )

    def check_settings(self) -> None:
        """Refuse a selector that does not exist, and a revision of none."""
        check_teacher(self.selector, "selector")
        if self.selector == "auto" and self.selector_revision:
            raise InputError("selector_revision", self.selector_revision, "auto is the teacher; pass --teacher_revision")


@dataclass(frozen=True)
class StudentOptions:
    """How the students run; nothing that a protocol says."""

    compile: bool = option(False, "compile the students")
    seeds_together: bool = option(
        False, "train the students of all seeds side by side in one process; for small students with instance norm on a GPU"
    )


@dataclass(frozen=True)
class EvaluationOptions(StudentOptions):
    """Evaluation: students trained on the set and on its baselines."""

    protocol: str = option("quick", PROTOCOL_HELP, common=True)
    students: str = option(
        "auto",
        "student networks, comma-separated: convnet-D, resnetap-10, resnet-18, resnet-18-bn, ..., timm/NAME; "
        "auto: the ConvNet that suits the image size, or resnet-18-bn where students of the protocol have BatchNorm",
        common=True,
    )
    repeats: PositiveInt = option(3, "students per set, with seeds seed, seed+1, ...", common=True)
    baselines: str = option("random", BASELINES_HELP, common=True)
    baseline_dynamics: Location = option("auto", BASELINE_DYNAMICS_HELP)
    full_data: bool = option(False, FULL_DATA_HELP)
    score: Literal["yes", "no"] = option(
        "yes",
        "whether students are trained at all; no: the set is made and packaged, and the same command without it scores it",
        identity=False,
    )

    def check_settings(self) -> None:
        """Refuse a protocol, students and baselines that do not exist, and students that the protocol does not take."""
        check_protocol(self.protocol)
        split_students(self.students, self.protocol)
        split_baselines(self.baselines)
        check_dynamics(self.baseline_dynamics, "baseline_dynamics")


@dataclass(frozen=True)
class KeptLabelsOptions:
    """What is kept of stored views."""

    label_share: Annotated[float, (">", 0), ("<=", 1)] = option(
        1.0, "share of the batches of stored views that are made, the first (LPLD: 0.1 to 0.025); students draw among them"
    )
    top_k: PositiveInt | None = option(
        None, "logits that are stored of a view, the largest, and their classes (LPQLD: 50 of 1,000); default: all"
    )


@dataclass(frozen=True)
class ViewsOptions(KeptLabelsOptions):
    """Stored views: augmented images with the teacher's logits, for training without the teacher."""

    view_epochs: NonNegativeInt | None = option(
        None,
        "epochs of stored views; default: 300 where they take at most 64 MB, or where --label_share or --top_k ask for "
        "some, else none; 0: none",
    )


@dataclass(frozen=True)
class OutputOptions:
    """Output."""

    output_dir: Path | None = option(
        None, "folder of the artifact; default outputs/<source>-ipc<IPC>-<method>", identity=False, common=True
    )
    image_format: Literal["png", "webp"] = option("png", "lossless encoding of the published images")
    overwrite: bool = option(False, "replace what the folder holds; finished stages that still fit are used", identity=False)
    push_to_hub: str | None = option(
        None,
        "publish the finished set as NAMESPACE/NAME on the Hub; auto: under its own name, in your namespace",
        identity=False,
        common=True,
    )
    private: bool = option(False, "make a new repository on the Hub private", identity=False)
    gated: Literal["auto", "manual"] | None = option(None, GATED_HELP, identity=False)

    def check_settings(self) -> None:
        """Refuse a folder and a repository that cannot be written to."""
        from distill_hub.disk.files import check_folder
        from distill_hub.hub import check_target

        check_folder(self.output_dir or Path("outputs"))
        if self.push_to_hub:
            check_target(self.push_to_hub)


@dataclass(frozen=True)
class RunOptions(TrackingOptions):
    """The run: with whom, how far, and what stays of it."""

    join: bool = option(
        False,
        "work in the folder together with other runs of the same command with --join; each may come and go",
        identity=False,
    )
    stage: str | None = option(
        None,
        "end when the stage of this name is finished, of those that --dry_run lists; the same command without it goes on",
        identity=False,
    )
    keep_run: Literal["yes", "no"] = option(
        "yes",
        "whether the stages of a finished set stay in its folder; no: nothing is left there to go on from",
        identity=False,
    )


@dataclass(frozen=True)
class SetOptions(RunOptions, OutputOptions, EvaluationOptions, ViewsOptions, TeacherOptions, SourceOptions):
    """The set."""

    ipc: PositiveInt = option(10, "images per class", common=True)
    seed: NonNegativeInt = option(0, "seed of every random draw", common=True)
    dry_run: bool = option(False, DRY_RUN_HELP, identity=False, common=True)


@dataclass(frozen=True)
class PixelOptions(SetOptions):
    """The images: of methods without a generator."""

    image_size: Pixels | None = option(
        None,
        "side of the square images in pixels; default: that of the source's images when they agree, else the teacher's, or "
        "where one is fitted a chosen one",
        common=True,
    )
    fit_seed: NonNegativeInt = option(0, "seed of the fit of the teacher")


@dataclass(frozen=True)
class FormationOptions:
    """Formation: how many images a stored one holds."""

    factor: Annotated[int, (">", 0), ("<=", MOST_TILES)] | None = option(
        None,
        "a stored image holds factor x factor tiles, which students see one by one at full size (IDC); 1: none (IDC-1); "
        "default as in the paper: 2 up to 64 px, else 3",
        common=True,
    )

    def tiles(self, size: int) -> int | None:
        """Return f where images of `size` pixels hold f x f tiles; None where students see them as they are.

        Raises:
            InputError: For images that are too small.
        """
        factor = self.factor or (2 if size <= 64 else 3)
        if not can_hold(size, factor):
            raise InputError("factor", factor, f"an image of {size} px cannot hold {factor} x {factor} tiles")
        return factor if factor > 1 else None


@dataclass(frozen=True)
class SampleOptions(GeneratorFitOptions, GeneratorOptions, SetOptions):
    """The samples: of methods with a generator."""

    sample_batch_size: PositiveInt = option(64, "samples per chunk of work, across classes")

    def check_settings(self) -> None:
        """Refuse several teachers."""
        check_one_teacher(self.teacher, "candidates are judged by one network, which embeds them, too")

    def check_sampler(self) -> None:
        """Refuse what does not go with the generator's sampler, once its kind has filled in the options left to it."""
