"""The validated record of a distilled set. Card, tags, repository name, loader and re-evaluation all come from it."""

import json
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import Annotated, Any, Literal

from pydantic import Field, SerializerFunctionWrapHandler, field_validator, model_serializer, model_validator

from distill_hub.artifact.base import Count, Moment, Name, PackageRecord, Record, Seconds, Share
from distill_hub.artifact.source import SourceRecord
from distill_hub.data.known import known_by_id
from distill_hub.data.tiles import MOST_TILES, can_hold

FORMAT_VERSION = 1  # of `cards/FORMAT.md`


class ClassRecord(Record):
    """One class, under every number it has. Position in the list = `label` = column of `soft_label`."""

    name: str
    wnid: str | None = None  # WordNet id, for ImageNet classes
    source_index: int | str  # its label in the source dataset
    generator_index: int | None = None  # its class id in the generator
    teacher_index: int | None = None  # its column in the teacher's logits
    prompt: str | None = None  # what a text-to-image generator was told of it


class CostRecord(Record):
    """What something took to make; see `running.cost` for what a core-second and a GPU-second are."""

    seconds: Seconds  # of the clock; of a set's stages summed over processes
    core_seconds: Seconds | None = None  # CPU time of all processes; None: unknown
    gpu_seconds: Seconds | None = None  # 0 without a GPU; None: unknown
    hardware: str
    processes: int | None = Field(default=None, gt=1)  # that fitted a model together; None: one did


# How the logits of several teachers are combined: their mean; the same, once each network's have the same norm.
Combination = Literal["mean", "norm"]


class ModelRecord(Record):
    """A generator or teacher."""

    RARE = ("members", "combination")
    id: str  # Hub id, timm/NAME, `FITTED` and the source, or the name of a folder on its author's machine
    architecture: str
    revision: str | None = None  # commit on the Hub
    sha256: str  # over all weights, by name
    license: str | None = None
    test_accuracy: Share | None = None  # teacher: fraction correct on the source's test split
    timestep_features: Literal["dit", "diffusers"] | None = None  # generator; None: a choice that older versions had not
    vae: "ModelRecord | None" = None  # generator: what decodes in place of its own
    tuning: "TuningRecord | None" = None  # generator: how it was fine-tuned
    cost: CostRecord | None = None  # of its fit by distill-hub; None: unknown, as of models from elsewhere
    # Of several teachers that label together; all the rest is then of all of them. `sha256`: see `describe.ensemble_record`.
    members: "list[ModelRecord] | None" = Field(default=None, min_length=2, max_length=100)
    combination: Combination | None = None  # how their logits are combined

    @model_validator(mode="after")
    def _members_are_combined(self):
        if (self.members is None) != (self.combination is None) or any(member.members for member in self.members or ()):
            raise ValueError("members and their combination go together, and a member is a single model")
        return self


class SelectorRecord(ModelRecord):
    """The classifier that judged a set's candidates, and over how many classes."""

    judged_over: int = Field(gt=0, le=100_000)  # classes among which its predictions and probabilities were


class ExpertsFacts(ModelRecord):
    """The experts whose trajectories a set's students follow; `sha256` is over the hashes of their files."""

    experts: int = Field(gt=0, le=10_000)
    epochs: int = Field(gt=0, le=100_000)  # that each was trained for


class MethodRecord(Record):
    """The method and the resolved settings of the run."""

    RARE = ("package",)
    name: Name  # e.g. cao2; its recipe is called the same but for those in `names.RECIPES`
    title: str
    paper: str | None = Field(default=None, pattern=r"^https?://\S+$")
    bibtex: str | None = None
    config: dict[str, Any]  # empty when unknown
    notes: dict[str, Any] = Field(default_factory=dict)  # what the method reports of this run, e.g. shortages
    package: PackageRecord | None = None  # that it comes from; None: distill-hub itself, or unknown


class StageRecord(Record):
    """One stage of the run."""

    name: str
    items: Count
    seconds: Seconds  # compute time, summed over chunks and processes, interrupted attempts included
    core_seconds: Seconds | None = None  # CPU time of all processes; None: unknown, in sets of older versions
    gpu_seconds: Seconds | None = None  # 0 without a GPU
    sha256: str | None = Field(default=None, pattern="^[0-9a-f]{64}$")  # over the hashes of its chunks; None: it has none
    at_a_time: int | None = Field(default=None, gt=0)  # most items for which there was memory; None: for a whole chunk
    # Largest over processes: "host", what a process holds beside mapped files, where its system says it; "cuda" on a GPU;
    # None: unknown, in sets of older versions.
    peak_memory_bytes: dict[str, Count] | None = None


VIEWS_FORMAT = 2  # of the stored views that are written now


class ViewsExtent(Record):
    """How much of a training is stored as views.

    With N images, an epoch of views has ceil(N / B) batches, the last of them shorter where B does not divide N. Pruned
    views (LPLD: Xiao and He, 2024) have whole batches alone, N // B in an epoch, and only the first of them are stored.
    """

    # 1: the columns `image` and `partner`, all epochs and all logits; in their records this and the next two are absent.
    format: int = 1
    label_share: float = Field(default=1.0, gt=0, le=1)  # of the whole batches of all epochs; 1: nothing is pruned
    top_k: int | None = Field(default=None, gt=0, lt=65_536)  # largest logits that are stored of a view; None: all
    epochs: int = Field(gt=0, le=1_000_000)
    batch_size: int = Field(gt=0, le=65_536)  # a reader holds one batch in memory

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: int) -> int:
        if value not in range(1, VIEWS_FORMAT + 1):
            known = f"this version of distill_hub reads stored views of formats 1 to {VIEWS_FORMAT}"
            raise ValueError(f"{known}; a newer one may read {value}")
        return value

    @model_validator(mode="after")
    def _all_of_it_in_format_1(self):
        if self.format == 1 and (self.is_pruned or self.top_k):
            raise ValueError("stored views of format 1 are neither pruned nor cut to the largest logits")
        return self

    @property
    def is_pruned(self) -> bool:
        """Whether only the first batches are stored."""
        return self.label_share < 1

    def per_epoch(self, images: int) -> int:
        """Return the number of batches of an epoch of a set of `images`, stored or not."""
        return images // self.batch_size if self.is_pruned else -(-images // self.batch_size)

    def batches(self, images: int) -> int:
        """Return the number of stored batches, K: of pruned views int(share * all), exactly in decimals, but at least 1."""
        every = self.epochs * self.per_epoch(images)
        return max(1, int(every * Fraction(repr(self.label_share)))) if self.is_pruned else every

    def views(self, images: int) -> int:
        """Return the number of stored views: rows of the files."""
        return self.batches(images) * self.batch_size if self.is_pruned else self.epochs * images

    def logit_bytes(self, classes: int) -> int:
        """Return how many bytes the logits of a view have: 2 each, and 2 for the class of each where not all are stored."""
        return 4 * self.top_k if self.top_k else 2 * classes


class ViewsFacts(ViewsExtent):
    """How stored views were drawn, and who labelled them."""

    image_size: int = Field(gt=0, le=16_384)  # side of the views, in pixels: that of the students, not of the set's images
    crop_scale: tuple[float, float]  # smallest and largest area that a crop is drawn for, as shares of the image's
    flip: bool  # whether half of the views are mirrored
    mix: Literal["cutmix"] = "cutmix"
    mix_alpha: float = Field(gt=0)  # a mixed view's share of the image's own area is drawn from Beta(alpha, alpha)
    teacher: ModelRecord
    seed: int = Field(ge=0, lt=2**63)

    @field_validator("crop_scale")
    @classmethod
    def _part_of_the_image(cls, value: tuple[float, float]) -> tuple[float, float]:
        if not 0 < value[0] <= value[1] <= 1:
            raise ValueError("two shares of the image's area are needed, 0 < smallest <= largest <= 1")
        return value


class ViewsRecord(ViewsFacts):
    """The stored views of a set: files `views/`."""

    rows: Count  # of the files, one for each stored view
    sha256: str = Field(pattern="^[0-9a-f]{64}$")  # over the values of all columns, see `views.columns.view_dtype`

    @model_serializer(mode="wrap")
    def _dumped(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        newer = ("format", "label_share", "top_k") if self.format == 1 else ()
        return {name: value for name, value in dump(self).items() if name not in newer}


class ZcaRecord(Record):
    """Which transform whitened a set's free pixels; see `augmentation.zca`."""

    eps: float = Field(gt=0)
    images: Count  # training images that it was fitted to
    sha256: str = Field(pattern="^[0-9a-f]{64}$")  # over the sums that the transform follows from


class FreePixelsRecord(Record):
    """What the column `pixels` holds: in the units of an image, 0 black and 1 white, or whitened."""

    zca: ZcaRecord | None = None


class EnvironmentRecord(Record):
    """Where the set was made, or a student trained."""

    packages: dict[str, str]
    python: str
    hardware: str
    processes: int = Field(gt=0, le=1_000_000)
    mixed_precision: str
    peak_memory_bytes: dict[str, Count]  # largest over processes: "cpu", and "cuda" where there is one


class TuningRecord(Record):
    """How a generator was fine-tuned: `tuning.json` of its folder."""

    method: MethodRecord  # its config: the settings of the fine-tuning alone
    base: ModelRecord  # the generator it started from
    source: SourceRecord
    classes: list[str] = Field(min_length=1, max_length=100_000)  # names of the source's classes
    steps: int = Field(gt=0)  # of the optimiser
    seconds: Seconds
    cost: CostRecord | None = None  # of the encoded images, too; None: unknown
    environment: EnvironmentRecord
    created: Moment


class Manifest(Record):
    """Everything known of a distilled set.

    Raises:
        pydantic.ValidationError: At construction, for a field that is missing, unknown or out of range.
    """

    RARE = ("class_images", "selector", "experts", "tiles", "free_pixels")
    format_version: int = FORMAT_VERSION
    name: Name  # e.g. digits-ipc10-cao2
    origin: Literal["distill-hub", "external"] = "distill-hub"  # external: made elsewhere; what is not known is null
    method: MethodRecord
    source: SourceRecord
    classes: list[ClassRecord] = Field(min_length=1, max_length=100_000)
    generator: ModelRecord | None = None
    teacher: ModelRecord | None = None
    selector: SelectorRecord | None = None  # of methods that have one; the teacher, where no other one was named
    experts: ExpertsFacts | None = None  # of methods that match trajectories
    # Whose; author: of an external set, teacher unknown; learned: optimised together with the images.
    soft_labels: Literal["teacher", "author", "one-hot", "learned"] = "teacher"
    ipc: int = Field(gt=0, le=1_000_000)  # images per class; of an uneven set their mean, rounded
    # Images of each class, of an uneven set alone: readers that know no such set refuse it, and no other.
    class_images: list[Annotated[int, Field(gt=0, le=1_000_000)]] | None = None
    image_size: int = Field(gt=0, le=16_384)  # side of the square images, in pixels
    free_pixels: FreePixelsRecord | None = None  # of sets whose students see floats, which no image holds
    # Of a set of tiles alone: f, where an image holds f x f that students see one by one, see `data.tiles`. As above.
    tiles: int | None = Field(default=None, ge=2, le=MOST_TILES)
    seed: int | None = Field(default=None, ge=0, lt=2**63)
    stages: list[StageRecord]
    environment: EnvironmentRecord | None = None
    license: str | None = None
    content_sha256: str = Field(pattern="^[0-9a-f]{64}$")
    views: ViewsRecord | None = None
    superseded_by: str | None = None  # Hub id of the corrected set
    created: Moment

    @field_validator("format_version")
    @classmethod
    def _known_version(cls, value: int) -> int:
        if value != FORMAT_VERSION:
            raise ValueError(f"this version of distill_hub reads format {FORMAT_VERSION}; a newer one may read {value}")
        return value

    @model_validator(mode="after")
    def _distinct_classes(self):
        if len({c.name for c in self.classes}) != len(self.classes):
            raise ValueError("class names must differ")
        return self

    @model_validator(mode="after")
    def _uneven_where_it_says_so(self):
        counts = self.class_images
        if counts is None:
            return self
        if len(counts) != len(self.classes) or len(set(counts)) < 2 or self.ipc != mean_ipc(counts):
            raise ValueError("class_images needs a number for each class, not all equal, and ipc is their mean, rounded")
        return self

    @model_validator(mode="after")
    def _as_many_views_as_it_says(self):
        views = self.views
        if views and views.is_pruned and views.batch_size > self.images:
            raise ValueError(f"pruned views are whole batches, and {self.images} images are none of {views.batch_size}")
        if views and views.top_k and views.top_k >= len(self.classes):
            raise ValueError(f"of {len(self.classes)} logits the {views.top_k} largest are all; top_k must be less, or null")
        if views and views.rows != views.views(self.images):
            asked = f"{views.label_share} of {views.epochs}" if views.is_pruned else views.epochs
            raise ValueError(f"{asked} epochs of {self.images} images are not {views.rows} stored views")
        return self

    @model_validator(mode="after")
    def _no_tile_of_padding_alone(self):
        if self.tiles and not can_hold(self.image_size, self.tiles):
            raise ValueError(f"an image of {self.image_size} pixels a side cannot hold {self.tiles} x {self.tiles} tiles")
        return self

    @model_validator(mode="after")
    def _tiles_are_of_pictures(self):
        if self.tiles and self.free_pixels:
            raise ValueError("a set has tiles or free_pixels, not both: tiles are decoded from the images")
        return self

    @property
    def is_from_noise(self) -> bool:
        """Whether the images were optimised from noise to match real ones in networks that no one else has."""
        return self.method.config.get("start") == "noise"

    @property
    def packages(self) -> dict[str, str]:
        """Versions of what made it, by name: that of the method's own package, too. Empty where nothing is known."""
        own = self.method.package
        return {**(self.environment.packages if self.environment else {}), **({own.name: own.version} if own else {})}

    @property
    def class_names(self) -> list[str]:
        """Class names in label order."""
        return [c.name for c in self.classes]

    @property
    def rows(self) -> int:
        """Number of images."""
        return sum(self.counts)

    @property
    def images(self) -> int:
        """Number of images that students see: of a set of tiles, all of them."""
        return self.rows * (self.tiles or 1) ** 2

    @property
    def counts(self) -> list[int]:
        """Number of images of each class, in label order."""
        return self.class_images or [self.ipc] * len(self.classes)

    @property
    def free_side(self) -> int | None:
        """Side of the images of a set with free pixels; None: of any other set."""
        return self.image_size if self.free_pixels else None

    @property
    def ipc_text(self) -> str:
        """Images per class, in words: '10', or '2 to 5' of an uneven set."""
        return f"{min(self.class_images)} to {max(self.class_images)}" if self.class_images else str(self.ipc)


def mean_ipc(counts: Sequence[int]) -> int:
    """Return what counts as images per class where classes have different numbers of them: the mean, rounded, at least 1."""
    return max(1, round(sum(counts) / len(counts)))


def method_record(
    facts: Mapping[str, str],
    config: dict[str, Any],
    notes: Mapping[str, Any] | None = None,
    package: PackageRecord | None = None,
) -> MethodRecord:
    """Join a method's own facts (``FACTS`` in its file) with settings and findings of one run, and its package."""
    plain = json.loads(json.dumps(config, default=str))
    return MethodRecord(**facts, config=plain, notes=dict(notes or {}), package=package)


def is_mirrored(manifest: Manifest) -> bool:
    """Return whether mirrored images of a set's source show their classes: as its record says.

    One of an older version does not. There the names of classes told, and what is known of the dataset is no other.
    """
    identity, said = known_by_id(manifest.source.hub_id), manifest.source.mirrored
    if said is None and identity is None:
        return not all(c.name.isdigit() for c in manifest.classes)
    return identity.mirrored if said is None and identity else bool(said)
