"""Settings of every recipe and command: one frozen dataclass each.

Shared groups of options are mixins, so that ``--help`` shows them under one heading everywhere.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from jsonargparse.typing import ClosedUnitInterval, NonNegativeFloat, NonNegativeInt, PositiveFloat, PositiveInt

from distill_hub.config import option

ProtocolName = Literal["quick", "idc-hard", "rded-soft", "kd", "fkd", "sre2l"]
PROTOCOL_HELP = (
    "how the students are trained: quick (smoke runs, not of the literature), idc-hard (Minimax, DGS, CaO2), "
    "rded-soft (RDED, CaO2), kd (Pool-Select-Refine), fkd (stored views), sre2l (SRe2L, DEDA)"
)

DRY_RUN_HELP = "work on the first chunk of every stage, print what the whole would take, and keep nothing"


@dataclass(frozen=True)
class SourceOptions:
    """Source: the real images."""

    source: str = option("digits", "a known name (digits, cifar10, imagewoof, ...), a Hub dataset id, or a local folder")
    source_revision: str | None = option(None, "branch, tag or commit of the Hub dataset")
    image_column: str | None = option(None, "image column, when it cannot be detected")
    label_column: str | None = option(None, "label column, when it cannot be detected")
    test_split: str | None = option(None, "name of the test split, when it cannot be detected")
    test_fraction: ClosedUnitInterval = option(
        0.0, "hold out this share of the training split (seeded) when there is no test split"
    )


@dataclass(frozen=True)
class GeneratorFitOptions:
    """Fitting a small generator: used when no pretrained one is named or known for the source."""

    fit_image_size: PositiveInt | None = option(None, "side of the square images in pixels; detected when all agree")
    fit_vae_steps: PositiveInt = option(300, "optimiser steps of the autoencoder")
    fit_dit_steps: PositiveInt = option(3000, "optimiser steps of the diffusion transformer")
    fit_batch_size: PositiveInt = option(32, "images per optimiser step")
    fit_dit_width: PositiveInt = option(96, "width of the diffusion transformer, a multiple of 32")
    fit_dit_layers: PositiveInt = option(4, "blocks of the diffusion transformer")
    fit_vae_width: PositiveInt = option(16, "channels of the autoencoder's first level")
    fit_seed: NonNegativeInt = option(0, "seed of the fits of generator and teacher")


@dataclass(frozen=True)
class GeneratorOptions:
    """Generator: the class-conditional DiT that draws the candidates."""

    generator: str = option(
        "auto",
        "Hub id or folder in the DiTPipeline layout, tuned or not; auto: facebook/DiT-XL-2-256 for ImageNet, else fit one",
    )
    generator_revision: str | None = option(None, "branch, tag or commit of the generator on the Hub")
    scheduler: Literal["ddpm", "ddim", "dpm-solver++"] = option("ddpm", "sampler")
    sample_steps: PositiveInt = option(50, "denoising steps per sample")
    guidance_scale: NonNegativeFloat = option(2.7, "classifier-free guidance, as in CaO2's code; 1 switches it off")
    timestep_features: Literal["auto", "dit", "diffusers"] = option(
        "auto",
        "how the network is told its timestep, by sinusoids with the exponent i/128 (dit: weights from DiT's own code) or "
        "i/127 (diffusers); auto: dit for facebook/DiT-XL-2-256 and what was tuned from it, else diffusers",
    )


@dataclass(frozen=True)
class TeacherOptions:
    """Teacher: the classifier that selects and writes the soft labels."""

    teacher: str = option(
        "auto",
        "timm/NAME, a transformers Hub id, or a folder; auto: timm/resnet18.tv_in1k for ImageNet, else fit a ConvNet",
    )
    teacher_revision: str | None = option(None, "branch, tag or commit of the teacher on the Hub")
    teacher_epochs: PositiveInt | None = option(None, "epochs when the teacher is fitted; default by size of the source")


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

    protocol: ProtocolName = option("quick", PROTOCOL_HELP)
    students: str = option(
        "auto",
        "student networks, comma-separated: convnet-D, resnetap-10, resnet-18, resnet-18-bn, ..., timm/NAME; "
        "auto: the ConvNet that suits the image size, or resnet-18-bn where students of the protocol have BatchNorm",
    )
    repeats: PositiveInt = option(3, "students per set, with seeds seed, seed+1, ...")


@dataclass(frozen=True)
class ViewsOptions:
    """Stored views: augmented images with the teacher's logits, for training without the teacher."""

    view_epochs: NonNegativeInt | None = option(
        None, "epochs of stored views; default: 300 where they take at most 64 MB, else none; 0: none"
    )


@dataclass(frozen=True)
class OutputOptions:
    """Output."""

    output_dir: Path | None = option(
        None, "folder of the artifact; default outputs/<source>-ipc<IPC>-<method>", identity=False
    )
    image_format: Literal["png", "webp"] = option("png", "lossless encoding of the published images")
    overwrite: bool = option(False, "start afresh when the folder holds another run", identity=False)
    push_to_hub: str | None = option(
        None,
        "publish the finished set as NAMESPACE/NAME on the Hub; auto: under its own name, in your namespace",
        identity=False,
    )
    private: bool = option(False, "make a new repository on the Hub private", identity=False)


@dataclass(frozen=True)
class SetOptions(OutputOptions, EvaluationOptions, ViewsOptions, TeacherOptions, SourceOptions):
    """The set."""

    ipc: PositiveInt = option(10, "images per class")
    seed: NonNegativeInt = option(0, "seed of every random draw")
    dry_run: bool = option(False, DRY_RUN_HELP, identity=False)


@dataclass(frozen=True)
class PixelOptions(SetOptions):
    """The images: of methods without a generator."""

    image_size: PositiveInt | None = option(
        None, "side of the square images in pixels; default: that of the source's images when they agree, else the teacher's"
    )
    fit_seed: NonNegativeInt = option(0, "seed of the fit of the teacher")


@dataclass(frozen=True)
class DitConfig(GeneratorFitOptions, GeneratorOptions, SetOptions):
    """Distillation: plain samples of a class-conditional diffusion transformer."""

    sample_batch_size: PositiveInt = option(64, "samples per chunk of work, across classes")


@dataclass(frozen=True)
class Cao2Config(DitConfig):
    """CaO2: objective-guided selection, then condition-aware latent optimisation."""

    pool_factor: PositiveInt = option(4, "pool of pool_factor * IPC candidates per class (paper: 4 ImageWoof, 2 elsewhere)")
    order: Literal["auto", "most_confident", "least_confident"] = option(
        "auto", "which correct candidates to keep; auto: most confident below IPC 50, least confident from 50 on"
    )
    fill: Literal["random", "most_confident"] = option(
        "random", "how a class short of correct candidates is filled (paper: random; released code: most_confident)"
    )
    condition: Literal["true", "null"] = option(
        "true",
        "condition of the optimisation: the class (easy tasks) or the null class (ImageWoof, ImageNet-1K), Eq. 5",
    )
    regularization: Literal["linf", "l1", "l2", "none"] = option("linf", "norm in Eq. 4")
    regularization_weight: NonNegativeFloat = option(10.0, "lambda in Eq. 4")
    max_timestep_fraction: ClosedUnitInterval = option(0.25, "timesteps are drawn from [1, fraction * T)")
    refine_steps: NonNegativeInt = option(100, "optimiser steps per image; 0 skips the stage")
    refine_learning_rate: PositiveFloat = option(6e-4, "Adam learning rate on the latents")
    refine_batch_size: PositiveInt = option(64, "latents per chunk of work, across classes")


@dataclass(frozen=True)
class TuningOptions:
    """Fine-tuning of the generator: DiffFit with the minimax criteria."""

    tuning_epochs: PositiveInt = option(8, "passes over the real images")
    tuning_batch_size: PositiveInt = option(8, "images per optimiser step, all processes together")
    micro_batch_size: PositiveInt | None = option(
        None, "images per forward pass of one process, gradients are accumulated; default: batch / processes"
    )
    tuning_learning_rate: PositiveFloat = option(1e-3, "AdamW learning rate")
    lambda_r: NonNegativeFloat = option(0.002, "weight of representativeness in Eq. 5; 0 with lambda_d 0 is plain DiffFit")
    lambda_d: NonNegativeFloat = option(0.008, "weight of diversity in Eq. 5")
    representativeness: Literal["minimax", "mean"] = option(
        "minimax", "compare with the least similar real latent (Eq. 3) or with their mean (Eq. 2, the ablation)"
    )
    diversity: Literal["minimax", "mean"] = option(
        "minimax", "compare with the most similar predicted latent (Eq. 4) or with their mean (the ablation)"
    )
    embedding: Literal["x0", "residual"] = option(
        "x0", "predicted embedding: the predicted clean latent (released code) or z_t - noise (as the paper writes it)"
    )
    memory_size: PositiveInt = option(64, "real and predicted latents remembered per class")
    label_dropout: ClosedUnitInterval = option(0.1, "share of images that are trained with the null class")
    ema_decay: ClosedUnitInterval = option(
        0.9999,
        "decay per step of the averaged weights, which are the ones kept; over much fewer than 10,000 steps the paper's "
        "0.9999 keeps most of the untuned weights: 0.999 suits 1,000 steps",
    )
    encode_batch_size: PositiveInt = option(64, "images per chunk of work when the real images are encoded")
    gradient_checkpointing: bool = option(False, "compute activations twice instead of keeping them", identity=False)
    checkpoint_steps: PositiveInt = option(500, "optimiser steps between checkpoints", identity=False)


@dataclass(frozen=True)
class MinimaxConfig(TuningOptions, DitConfig):
    """Minimax Diffusion: fine-tune the generator for representative and diverse samples, then sample."""

    guidance_scale: NonNegativeFloat = option(4.0, "classifier-free guidance, as in Minimax's code; 1 switches it off")


@dataclass(frozen=True)
class DgsConfig(DitConfig):
    """Difficulty-guided sampling: keep samples that are as difficult as the real images."""

    pool_factor: PositiveInt = option(5, "pool of pool_factor * IPC candidates per class")
    distribution: Literal["scale", "hill", "ground", "slope", "cliff"] = option(
        "scale", "difficulties wanted: those of the real images, or a shape of the paper, for IPC 10, 20 and 50 (Tab. 3)"
    )
    similarity_weight: ClosedUnitInterval = option(
        0.5, "lambda in Eq. 9: 1 keeps the pool's own distribution of difficulties, 0 makes it uniform"
    )
    threshold_range: Literal["pool", "ipc"] = option(
        "pool", "thresholds of the transform are searched below half of the pool (paper) or of IPC (released code's program)"
    )


@dataclass(frozen=True)
class PsrConfig(DitConfig):
    """Pool-Select-Refine: select reliable, certain and diverse samples, then refine their latents with soft labels."""

    pool_factor: PositiveInt = option(2, "pool of pool_factor * IPC candidates per class")
    temperature: PositiveFloat = option(1.5, "tau of the teacher's probabilities")
    reliability_weight: NonNegativeFloat | None = option(None, "alpha in Eq. 8; default: 3 up to IPC 10, 1, 0.5 from IPC 50")
    entropy_weight: NonNegativeFloat | None = option(None, "beta in Eq. 8; default: 1")
    diversity_weight: NonNegativeFloat | None = option(None, "gamma in Eq. 8; default: 0.5 up to IPC 10, 1, 3 from IPC 50")
    refine_steps: NonNegativeInt = option(100, "L, gradient steps per image; 0 skips the refinement")
    refine_learning_rate: PositiveFloat = option(0.01, "eta, of plain gradient descent on the latents")
    kl_steps: NonNegativeInt = option(4, "R, last steps in which the soft label takes part")
    kl_weight: NonNegativeFloat = option(0.5, "lambda in Eq. 10")
    kl_weight_min: NonNegativeFloat = option(0.1, "w_min in Eq. 10, of a candidate the teacher is sure of")
    kl_weight_max: NonNegativeFloat = option(2.0, "w_max in Eq. 10, of one it does not believe")
    refine_batch_size: PositiveInt = option(64, "latents per chunk of work, across classes")


@dataclass(frozen=True)
class CoresetConfig(PixelOptions):
    """Coreset: real images, chosen by the teacher's embeddings."""

    embed_batch_size: PositiveInt = option(256, "real images that the teacher embeds at a time")


@dataclass(frozen=True)
class RdedConfig(PixelOptions):
    """RDED: the most realistic crops of real images, tiled."""

    images_per_class: PositiveInt = option(
        300, "real images that crops are taken from, per class; all where there are fewer; at least factor^2 * IPC"
    )
    num_crops: PositiveInt = option(5, "random crops per real image, of which the teacher keeps one")
    factor: PositiveInt | None = option(
        None,
        "a distilled image is tiled from factor x factor crops; default as in the released code: 1 up to 64 px, else 2",
    )


@dataclass(frozen=True)
class RecoverOptions(PixelOptions):
    """Recovery: pixels are optimised, from noise."""

    recover_steps: PositiveInt = option(
        1000, "iterations (papers: 1,000 for CIFAR, 4,000 for Tiny-ImageNet and ImageNet-1K)"
    )
    recover_learning_rate: PositiveFloat = option(0.25, "Adam learning rate on normalised pixels; falls to 0 along a cosine")
    smallest_crop: ClosedUnitInterval = option(0.08, "least area of the random crops, as a share of the image's")


@dataclass(frozen=True)
class StatisticsOptions(RecoverOptions):
    """Alignment with BatchNorm statistics."""

    statistics_weight: NonNegativeFloat = option(
        0.01, "r_bn (released scripts: 0.01 for ImageNet-1K and CIFAR-100, 1 for Tiny-ImageNet)"
    )
    first_layer_weight: NonNegativeFloat = option(10.0, "of the first BatchNorm layer; the others weigh 1")


@dataclass(frozen=True)
class Sre2lConfig(StatisticsOptions):
    """SRe2L: align batches of different classes with the teacher's BatchNorm statistics."""

    recover_batch_size: PositiveInt = option(100, "most images of a batch, one per class")


@dataclass(frozen=True)
class ClassOptions:
    """Statistics of the real images, class by class."""

    bank: Path | None = option(None, "folder they are kept in; default: in the user cache", identity=False)
    classes_at_a_time: PositiveInt = option(1, "classes whose images are optimised side by side; more fill a large GPU")


@dataclass(frozen=True)
class LpldConfig(ClassOptions, StatisticsOptions):
    """LPLD: align batches of one class with that class's BatchNorm statistics."""


@dataclass(frozen=True)
class DedaConfig(ClassOptions, RecoverOptions):
    """DEDA: align means and covariances of each class's features, and spread out the last layer's."""

    gamma: NonNegativeFloat = option(50.0, "weight of the covariances in Eq. 6; 0 aligns the means alone")
    lambda_var: NonNegativeFloat = option(0.2, "lambda_1 in Eq. 9, of the variances of the last features")
    lambda_cov: NonNegativeFloat = option(4.0, "lambda_2 in Eq. 9, of their covariances")
    reduction: Literal["dimension", "sum", "mean", "relative"] = option(
        "dimension",
        "of the squared difference of two D x D covariances: sum / D, sum (Eq. 6 as it stands), mean, or sum / that of the "
        "real covariance",
    )
    features: Literal["inputs", "outputs"] = option("inputs", "of the BatchNorm layers: what they see or what they return")


@dataclass(frozen=True)
class FitGeneratorConfig(GeneratorFitOptions, SourceOptions):
    """Output."""

    output_dir: Path | None = option(None, "folder of the pipeline; default: the user cache", identity=False)
    overwrite: bool = option(False, "fit again when the folder is not empty", identity=False)
    dry_run: bool = option(False, DRY_RUN_HELP, identity=False)


@dataclass(frozen=True)
class FitClassifierConfig(SourceOptions):
    """The classifier."""

    network: str = option("auto", "resnet-18-bn, ..., or timm/NAME; auto: the convnet-D-bn that suits the image size")
    image_size: PositiveInt | None = option(None, "side of the square images in pixels; default: the source's own")
    epochs: PositiveInt = option(100, "passes over the training split")
    batch_size: PositiveInt = option(128, "images per optimiser step, all processes together")
    learning_rate: PositiveFloat = option(0.1, "largest learning rate of SGD with momentum 0.9; it warms up and falls to 0")
    weight_decay: NonNegativeFloat = option(5e-4, "of all weights")
    seed: NonNegativeInt = option(0, "seed of every random draw")
    checkpoint_epochs: PositiveInt = option(5, "epochs between checkpoints", identity=False)
    output_dir: Path | None = option(None, "folder; default outputs/<source>-<network>", identity=False)
    overwrite: bool = option(False, "start afresh when the folder holds another run", identity=False)
    dry_run: bool = option(False, DRY_RUN_HELP, identity=False)
