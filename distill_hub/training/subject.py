"""What is scored, and what it is tested on."""

import hashlib
import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from distill_hub.artifact.manifest import Manifest, ModelRecord, is_mirrored
from distill_hub.augmentation.zca import Zca
from distill_hub.classifiers import Classifier
from distill_hub.config import InputError
from distill_hub.data.classes import SourceClass, match_classes
from distill_hub.data.images import DECODER
from distill_hub.data.known import KNOWN, known_by_id
from distill_hub.data.sources import Source, load_source
from distill_hub.disk.files import cache_dir, slug
from distill_hub.kinds import Kind, PositiveFloat
from distill_hub.running.mapped import AT_A_TIME, make_mapped, map_rows
from distill_hub.running.run import Run
from distill_hub.running.seeds import draw_seed
from distill_hub.running.stages import key_of
from distill_hub.training.settings import Settings
from distill_hub.training.train import TrainingSet

_MANY = 2**26  # bytes of decoded test images from which on they are kept in a file


class HeldOut:
    """The test images of some classes of a source, decoded once for every size that is asked for.

    Many are decoded by all processes together, see `prepare`, into one file of the user's cache, which the processes of a
    machine share, and later runs.

    Args:
        source: The real dataset.
        places: Position in its list of each of the C classes, in label order; None: all, as they are. Test images of other
            classes are left out.

    Raises:
        InputError: When there is no test image of a class.
    """

    def __init__(self, source: Source, places: Sequence[int] | None = None):
        self.source = source
        self.places = list(range(len(source.classes)) if places is None else places)
        self.label_of = np.full(len(source.classes), -1)  # of each class of the source; -1: not among these
        self.label_of[self.places] = np.arange(len(self.places))
        self._rows = np.flatnonzero(self.label_of[source.test.labels] >= 0)
        self.labels = torch.from_numpy(self.label_of[source.test.labels[self._rows]])  # (M,)
        self._images = {}
        counts = np.bincount(self.labels, minlength=len(self.places))
        without = [known.name for known, count in zip(self.classes, counts, strict=True) if not count]
        if without:
            raise InputError("source", source.name, f"its split {source.test.name!r} holds no image of {', '.join(without)}")

    @property
    def classes(self) -> list[SourceClass]:
        """The C classes, in label order."""
        return [self.source.classes[place] for place in self.places]

    @property
    def training_rows(self) -> np.ndarray:
        """Rows of the source's training split that show one of the classes."""
        return np.flatnonzero(self.label_of[self.source.train.labels] >= 0)

    def prepare(self, run: Run, size: int, resize: int | None = None) -> bool:
        """Decode the images, if they are many: the stage 'decode test images'. Call it on every process.

        Args:
            run: Spreads the work.
            size: See `images`.
            resize: See `images`.

        Returns:
            Whether all are there. Of a dry run that finds none in the cache the first are.
        """
        test, key, shape = self.source.test, (size, resize or size), (len(self._rows), 3, size, size)
        if math.prod(shape) < _MANY:
            return True
        rows = hashlib.sha256(self._rows.tobytes()).hexdigest()
        of = {"test": test.fingerprint, "rows": rows, "size": key, "decoder": DECODER}
        file, stage = cache_dir() / "decoded" / f"{slug(self.source.name)}-{key_of(of)}", f"decode test images, {size} px"
        if key not in self._images:
            self._images[key] = make_mapped(
                run, stage, shape, lambda part: test.pixels(self._rows[part], size, resize=key[1]),
                chunk_size=AT_A_TIME, made_from=of, file=file,
            )  # fmt: skip
            run.drop(stage, now=False)
        return not run.is_dry or run.agree(file.exists())

    def images(self, size: int, resize: int | None = None) -> torch.Tensor:
        """Return the images, uint8 (M, 3, size, size), decoded once; see `Split.pixels`."""
        key = size, resize or size
        if key not in self._images:
            self._images[key] = self.source.test.pixels(self._rows, size, resize=key[1])
        return self._images[key]


@dataclass(frozen=True)
class Subject:
    """A set that is scored.

    Args:
        own: The set, as students see it; see `TrainingSet.decoded`.
        test: What its students are tested on; has the meaning of its labels, 0 .. C - 1.
        content_sha256: Of the set.
        teacher: Gives the labels where a protocol asks for them online; its logits have the order of the labels.
        teacher_record: What is known of it.
        label_temperature: See `label_temperature`.
        student_rate: See `student_rate`.
        tiles: Of a set of f x f tiles, f; each of them is one of its images.
        zca: Whitens real images, for students of a set of whitened ones.
        folder: Where its files lie; None: of a set of another format.
        name: Of the set, for stages that map its images.
    """

    own: TrainingSet
    test: HeldOut
    content_sha256: str
    teacher: Classifier | None = None
    teacher_record: ModelRecord | None = None
    label_temperature: float | None = None
    student_rate: float | None = None
    tiles: int | None = None
    zca: Zca | None = None
    folder: Path | None = None
    name: str = "set"

    @property
    def stored_labels(self) -> torch.Tensor:
        """The label of each image that the set stores, of a set of tiles fewer than it shows."""
        return self.own.labels[:: (self.tiles or 1) ** 2]

    def test_images(self, settings: Settings) -> torch.Tensor:
        """Return the test images as students see them, (M, 3, S, S): uint8, or whitened float32."""
        return self._seen(self.test.images(settings.image_size, settings.test_resize))

    def _seen(self, images: torch.Tensor) -> torch.Tensor:
        return self.zca.whiten(images).cpu() if self.zca else images

    def seen(self, run: Run, stage: str, drawn: TrainingSet, made_from: Mapping[str, Any] | None = None) -> TrainingSet:
        """Return another set as students of this one see it: whitened where this one is. Call it on every process.

        Args:
            run: Maps the images, see `map_rows`.
            stage: Of the run, that mapped those of the set.
            drawn: The set.
            made_from: What its images are, see `Run.map`.
        """
        if self.zca is None:
            return drawn
        known = None if made_from is None else {**made_from, "zca": self.zca.sha256}
        whitened = map_rows(
            run, f"{stage}, whitened", lambda a, b: self._seen(drawn.images[a:b]), len(drawn.images), made_from=known
        )
        return replace(drawn, images=whitened)

    def random_real(self, run: Run, size: int, *, soft: bool) -> Callable[[int], TrainingSet]:
        """Return the baseline of every score: as many randomly drawn training images of the source, by seed.

        They are as many as the set stores, and fill the same space: a set of tiles has more to show.

        Args:
            run: Decodes them, see `real_images`.
            size: Side in pixels.
            soft: Whether the teacher labels them.

        Raises:
            InputError: When a class of the source has fewer images than the set.
        """
        train, per_class = self.test.source.train, self.per_class()

        def draw(seed: int) -> TrainingSet:
            rows = train.draw_per_class(per_class, draw_seed(seed, "random real"))
            return self.real_images(run, f"random real images, seed {seed}, {size} px", rows, size, soft=soft)

        return draw

    def per_class(self) -> np.ndarray:
        """Return how many real images of each class of the source are as large as the set, int64; see `random_real`.

        Raises:
            InputError: When a class of the source has fewer.
        """
        train, classes = self.test.source.train, self.test.source.classes
        per_class = np.zeros(len(classes), dtype=np.int64)
        per_class[self.test.places] = torch.bincount(self.stored_labels, minlength=len(self.test.places)).numpy()
        images = np.bincount(train.labels, minlength=len(classes))
        if (per_class > images).any():
            short = int((images - per_class).argmin())
            valid = f"class {classes[short].name!r} has {images[short]} images to train on, the set {per_class[short]}"
            raise InputError("source", self.test.source.name, f"{valid}: no baseline of real images is as large")
        return per_class

    @property
    def real_rows(self) -> np.ndarray:
        """See `HeldOut.training_rows`."""
        return self.test.training_rows

    def real_images(self, run: Run, stage: str, rows: np.ndarray, size: int, *, soft: bool = False) -> TrainingSet:
        """Return real images with the set's labels, as its students see them. Call it on every process.

        Args:
            run: Decodes them, all processes together, and maps them; see `map_rows`.
            stage: Of the run.
            rows: Of the source's training split.
            size: Side in pixels.
            soft: Whether the teacher labels them, too.
        """
        train = self.test.source.train
        made_from = {"source": self.test.source.fingerprint, "rows": key_of(rows.tolist()), "size": size}
        images = map_rows(run, stage, lambda a, b: train.pixels(rows[a:b], size), len(rows), made_from=made_from)
        drawn = TrainingSet(images, torch.from_numpy(self.test.label_of[train.labels[rows]]))
        if soft:
            known = {**made_from, "teacher": self.teacher_record.sha256}
            labels = map_rows(
                run, f"{stage}, labelled", lambda a, b: self.teacher.soft_labels(images[a:b]), len(rows), made_from=known
            )
            drawn = replace(drawn, soft_labels=labels)
        return self.seen(run, stage, drawn, made_from)


def label_temperature(manifest: Manifest) -> float | None:
    """Return the temperature at which a set's method used its soft labels, which are stored at 1; None: at no other.

    Only Pool-Select-Refine has one, also after GLaD and IGD.

    Raises:
        InputError: When what the manifest says is no temperature.
    """
    value = manifest.method.config.get("temperature") if manifest.method.name in ("psr", "glad", "igd") else None
    return _positive("config.temperature", value)


def student_rate(manifest: Manifest) -> float | None:
    """Return the learning rate that a set's method learned together with its images; None: it learned none.

    Raises:
        InputError: When what the manifest says is no learning rate.
    """
    return _positive("notes.student_lr", manifest.method.notes.get("student_lr"))


def _positive(field: str, value: Any) -> float | None:
    if value is None:
        return None
    kind = Kind(PositiveFloat)
    try:
        return kind.read(value)
    except ValueError:
        raise InputError(f"manifest.json: method.{field}", value, f"{kind.valid} is needed") from None


def real_source(manifest: Manifest, *, published: bool, source: str | None = None, **overrides) -> tuple[Source, list[int]]:
    """Load the real dataset that a set stands for, and find its classes there.

    Args:
        manifest: Of the set.
        published: Whether the set is on the Hub; then a folder of its author's is not looked for on this machine.
        source: Where the real dataset lies now; default: where the manifest says.
        **overrides: Of `load_source`, where they differ from what the manifest says.

    Returns:
        The real dataset, and the position in its list of each class of the set, in label order.

    Raises:
        InputError: When it cannot be loaded, or does not know a class.
    """
    known = manifest.source
    # What lies in a folder that is called as a known source is not that one.
    if source is None and known.is_folder and (published or known.name in KNOWN or not os.path.exists(known.name)):
        valid = f"the set was made from a folder of its author's ({known.name}); pass --source with the real dataset"
        raise InputError("source", None, valid)
    identity = known_by_id(known.hub_id)  # wherever its images lie now
    recorded = {
        "source_revision": None if source else known.revision,
        "source_config": None if source else known.config,
        "image_column": known.image_column,
        "label_column": known.label_column,
        "train_split": known.train_split,
        "test_split": None if known.test_fraction else known.test_split,
        "test_fraction": known.test_fraction,
        "mirrored": "yes" if is_mirrored(manifest) else "no",
        "normalization": known.normalization or (identity and identity.normalization),
    }
    real = load_source(source or known.name, **{name: overrides.get(name) or value for name, value in recorded.items()})
    own = [SourceClass(c.name, c.source_index, c.wnid) for c in manifest.classes]
    return real, match_classes(own, real.class_names, "source", real.name)
