"""Real datasets: known names, any Hub id, and any local folder that `load_dataset` reads."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, load_dataset_builder
from datasets.exceptions import DatasetGenerationError
from PIL import Image as PILImage

from distill_hub.config import InputError
from distill_hub.data.classes import SourceClass, imagenet_classes, is_imagenet
from distill_hub.data.images import decode, square
from distill_hub.data.known import KNOWN, check_source
from distill_hub.running.files import cache_dir, slug
from distill_hub.running.versions import versions

FIT_VERSION = 2  # raised when the code that fits generators or teachers changes what it makes
_TEST_SPLITS = ("test", "validation", "valid", "val")


@dataclass(frozen=True)
class Split:
    """One split: the rows, and their labels as positions in `Source.classes`."""

    source: str
    name: str
    dataset: Dataset = field(repr=False)  # the image column alone, encoded
    labels: np.ndarray = field(repr=False)  # (N,) int64
    image_column: str

    def __len__(self) -> int:
        return len(self.labels)

    @cached_property
    def by_class(self) -> list[np.ndarray]:
        """The rows of every class, in their order, from one pass over the labels."""
        return np.split(np.argsort(self.labels, kind="stable"), np.cumsum(np.bincount(self.labels))[:-1])

    def image(self, row: int) -> PILImage.Image:
        """Decode one image, as RGB."""
        try:
            return decode(_encoded(self.dataset[row][self.image_column]))
        except (OSError, ValueError) as error:
            raise InputError(
                "source", self.source, f"image of row {row} in split {self.name!r} cannot be decoded ({error})"
            ) from error

    def pixels(self, indices: Sequence[int] | None, size: int, *, resize: int | None = None) -> torch.Tensor:
        """Decode images and make them `square`.

        Args:
            indices: Rows to decode; None for all.
            size: Side of the result in pixels.
            resize: Length of the shorter side before the centre is cropped; default: `size`.

        Returns:
            uint8 (N, 3, size, size).

        Raises:
            InputError: For an image that cannot be decoded; see also `square`.
        """
        indices = range(len(self)) if indices is None else indices
        result = torch.empty(len(indices), 3, size, size, dtype=torch.uint8)
        for place, row in enumerate(indices):
            result[place] = torch.from_numpy(square(self.image(int(row)), size, resize)).permute(2, 0, 1)
        return result

    def draw_per_class(self, count: int | np.ndarray, seed: int) -> np.ndarray:
        """Return `count` random rows of every class, class by class, as row numbers (C * count,), or (sum of counts,).

        See `check_ipc` for classes with fewer.
        """
        generator = np.random.default_rng(seed)
        counts = np.broadcast_to(count, len(self.by_class))
        drawn = zip(self.by_class, counts, strict=True)
        return np.concatenate([generator.choice(own, n, replace=False) for own, n in drawn])


@dataclass(frozen=True)
class Source:
    """A real dataset: train and test split, classes, and where it came from."""

    name: str
    train: Split
    test: Split
    classes: list[SourceClass]
    label_column: str
    hub_id: str | None = None
    revision: str | None = None  # commit of the Hub dataset
    license: str | None = None
    test_fraction: float = 0.0

    @property
    def class_names(self) -> list[str]:
        """Class names in label order."""
        return [c.name for c in self.classes]

    @property
    def image_size(self) -> int | None:
        """Side in pixels when the first images are square and agree, else None."""
        sides = {side for row in range(min(8, len(self.train))) for side in self.train.image(row).size}
        return sides.pop() if len(sides) == 1 else None

    @property
    def has_wnids(self) -> bool:
        """Whether every class is known by its WordNet id, as a model trained on ImageNet needs it."""
        return all(c.wnid for c in self.classes)

    @cached_property
    def fingerprint(self) -> str:
        """The sha256 over the training split's labels and encoded images (of files: name and size)."""
        digest = hashlib.sha256(self.train.labels.astype("<i8").tobytes())
        for batch in self.train.dataset.iter(1000):
            for image in batch[self.train.image_column]:
                if image["bytes"] is not None:
                    digest.update(image["bytes"])
                else:
                    path = Path(image["path"])
                    digest.update(f"{path.name} {path.stat().st_size}".encode())
        return digest.hexdigest()


def _encoded(cell: dict[str, Any] | None) -> bytes:
    """Return the bytes of an image as the image column holds it, from the file it names where they are not in the cell."""
    if cell is None:
        raise ValueError("there is none")
    return Path(cell["path"]).read_bytes() if cell["bytes"] is None else cell["bytes"]


def load_source(
    source: str,
    *,
    source_revision: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    test_split: str | None = None,
    test_fraction: float = 0.0,
) -> Source:
    """Load a real dataset.

    Args:
        source: A key of `KNOWN`, a Hub id `org/name`, or a local folder (imagefolder or parquet).
        source_revision: Branch, tag or commit of a Hub dataset. The commit it stands for is recorded.
        image_column: Name of the image column; default: the known one, or the only column of type Image.
        label_column: Name of the label column; default: the known one, or the only ClassLabel.
        test_split: Name of the test split; default: the first of test, validation, valid, val.
        test_fraction: Share of the training split held out, stratified with seed 0, when there is no test split.

    Raises:
        InputError: For a source, column or split that does not exist.
    """
    known = KNOWN.get(source)
    if source == "digits":
        splits, commit = _digits(), None
    else:
        splits, commit = _load(known.hub_id if known else source, source_revision)
    if "train" not in splits:
        raise InputError("source", source, f"a split named 'train' is needed; it has {sorted(splits)}")
    features = splits["train"].features
    image_column = _column("image_column", image_column or (known and known.image), features, Image)
    label_column = _column("label_column", label_column or (known and known.label), features, ClassLabel)
    test_split = test_split or (known and known.test_split) or next((s for s in _TEST_SPLITS if s in splits), None)
    held_out = test_split is None and test_fraction > 0
    if held_out:
        splits = _hold_out(splits["train"], label_column, test_fraction)
        test_split = "test"
    if test_split not in splits:
        raise InputError(
            "test_split", test_split, f"{source} has {sorted(splits)}; name one with --test_split, or pass --test_fraction"
        )
    train, test = splits["train"], splits[test_split]
    feature = train.features[label_column]
    # What a row of the label column holds, class by class.
    if isinstance(feature, ClassLabel):
        names, values = feature.names, list(range(len(feature.names)))
    else:
        values = sorted(set(train[label_column][:]) - {None})
        names = [str(value) for value in values]
    classes = _classes(names, values, known.wnids if known else None)
    return Source(
        name=source,
        train=_split(source, "train", train, label_column, classes, image_column),
        test=_split(source, test_split, test, label_column, classes, image_column),
        classes=classes,
        label_column=label_column,
        hub_id=known.hub_id if known else (source if commit else None),
        revision=commit,
        license=known.license if known else None,
        test_fraction=test_fraction if held_out else 0.0,
    )


def _hold_out(dataset: Dataset, label_column: str, fraction: float) -> DatasetDict:
    """Split off a share (or an integer number) of the rows, stratified with seed 0, and leave the columns as they are."""
    from sklearn.model_selection import train_test_split

    try:
        train, test = train_test_split(
            range(len(dataset)), test_size=fraction, stratify=dataset[label_column][:], random_state=0
        )
    except ValueError as error:
        raise InputError("test_fraction", fraction, f"the training split must allow it ({error})") from error
    return DatasetDict(train=dataset.select(sorted(train)), test=dataset.select(sorted(test)))


def check_ipc(source: Source, ipc: int) -> None:
    """Refuse more images per class than the smallest class of the training split has.

    Raises:
        InputError: Naming the class.
    """
    counts = np.bincount(source.train.labels, minlength=len(source.classes))
    smallest = int(counts.argmin())
    if ipc > counts[smallest]:
        raise InputError(
            "ipc", ipc, f"class {source.class_names[smallest]!r} of {source.name} has {counts[smallest]} images"
        )


def fit_folder(source: Source, what: str, *settings: Any) -> Path:
    """Return the folder in the user's cache for what is made from a source: one per content of it, settings and versions."""
    key = json.dumps([FIT_VERSION, versions(), source.fingerprint, source.class_names, what, *settings])
    return cache_dir() / f"{slug(source.name)}-{what}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def _digits() -> DatasetDict:
    """Load scikit-learn's 1,797 handwritten digits, enlarged from 8x8 to 16x16, with 500 of them as test split."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = [PILImage.fromarray(np.uint8(image / 16 * 255)) for image in digits.images]  # grey values 0..16
    images = [image.resize((16, 16), PILImage.Resampling.BILINEAR).convert("RGB") for image in small]
    features = Features({"image": Image(), "label": ClassLabel(names=[str(d) for d in range(10)])})
    whole = Dataset.from_dict({"image": images, "label": digits.target}, features=features)
    return _hold_out(whole, "label", 500)


def _load(path: str, revision: str | None) -> tuple[DatasetDict, str | None]:
    """Return the splits, and the commit for a Hub dataset."""
    check_source(path)
    local = Path(path).exists()
    try:
        builder = load_dataset_builder(path, revision=revision)
        builder.download_and_prepare()
        if empty := [name for name, split in builder.info.splits.items() if split.num_examples == 0]:
            raise ValueError(f"split {empty[0]!r} is empty")
        # For a dataset on the Hub, the builder's hash is the commit that the revision stands for.
        return builder.as_dataset(), None if local else builder.hash
    # No such dataset, no data files, unreadable files, a loading script, an empty split.
    except (FileNotFoundError, DatasetGenerationError, RuntimeError, ValueError) as error:
        raise InputError("source", path, f"a dataset with images is needed ({error.__cause__ or error})") from error
    except ConnectionError as error:
        raise InputError("source", path, f"the Hub cannot be reached and it is not in the cache ({error})") from error


def _column(field: str, name: str | None, features: Features, kind: type) -> str:
    if name is not None:
        if name not in features:
            raise InputError(field, name, f"the columns are {', '.join(features)}")
        if isinstance(features[name], Image) != (kind is Image):
            raise InputError(field, name, f"the columns are {features}")
        return name
    found = [column for column, feature in features.items() if isinstance(feature, kind)]
    if not found and kind is ClassLabel:
        found = [column for column in ("label", "labels", "class_id", "class", "target") if column in features]
    if len(found) != 1:
        raise InputError(field, None, f"name one with --{field}; the columns are {', '.join(features)}")
    return found[0]


def _classes(names: Sequence[str], values: Sequence, wnids: Sequence[str] | None) -> list[SourceClass]:
    if wnids is not None or (len(names) == 1000 and is_imagenet(names)):
        known, descriptions = imagenet_classes()
        short = [description.split(",")[0] for description in descriptions]
        # 'crane' and 'maillot' stand for two classes each.
        unique = [s if short.count(s) == 1 else f"{s} ({w})" for s, w in zip(short, known, strict=True)]
        return [SourceClass(unique[i], i, known[i]) for i in (known.index(wnid) for wnid in wnids or known)]
    is_wnid = re.compile(r"n\d{8}").fullmatch
    return [SourceClass(n, v, n if is_wnid(n) else None) for n, v in zip(names, values, strict=True)]


def _split(source: str, name: str, dataset: Dataset, label: str, classes: Sequence[SourceClass], image: str) -> Split:
    place = {c.index: position for position, c in enumerate(classes)}
    # [:]: without it `datasets` reads row by row, a second for 60,000.
    labels = np.array([place.get(value, -1) for value in dataset[label][:]], dtype=np.int64)
    rows = np.flatnonzero(labels >= 0)  # classes that are not taken, and unlabelled rows (-1), are left out
    if len(rows) == 0:
        raise InputError("source", source, f"split {name!r} holds no labelled images of the {len(classes)} classes")
    images = dataset.select_columns([image]).cast_column(image, Image(decode=False))
    return Split(source, name, images if len(rows) == len(images) else images.select(rows), labels[rows], image)
