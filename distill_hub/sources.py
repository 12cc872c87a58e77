"""Real datasets: known names, any Hub id, any local folder that `load_dataset` reads; and matching of classes by name."""

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import ClassLabel, Dataset, DatasetDict, Features, Image, load_dataset, load_dataset_builder
from datasets.exceptions import DatasetGenerationError
from huggingface_hub.utils import HFValidationError, validate_repo_id
from PIL import Image as PILImage
from PIL import ImageOps

from distill_hub.config import InputError, nearest
from distill_hub.run import cache_dir

IMAGENETTE = "n01440764 n02102040 n02979186 n03000684 n03028079 n03394916 n03417042 n03425413 n03445777 n03888257".split()
# The order of the papers' class file. It is not sorted; an image folder of the same classes is.
IMAGEWOOF = "n02096294 n02093754 n02111889 n02088364 n02086240 n02089973 n02087394 n02115641 n02099601 n02105641".split()
# ImageNet-100 as in IDC (Kim et al., 2022), in its order; its first ten classes are ImageIDC (ImageNet-10).
IMAGENET100 = """
n02869837 n01749939 n02488291 n02107142 n13037406 n02091831 n04517823 n04589890 n03062245 n01773797
n01735189 n07831146 n07753275 n03085013 n04485082 n02105505 n01983481 n02788148 n03530642 n04435653
n02086910 n02859443 n13040303 n03594734 n02085620 n02099849 n01558993 n04493381 n02109047 n04111531
n02877765 n04429376 n02009229 n01978455 n02106550 n01820546 n01692333 n07714571 n02974003 n02114855
n03785016 n03764736 n03775546 n02087046 n07836838 n04099969 n04592741 n03891251 n02701002 n03379051
n02259212 n07715103 n03947888 n04026417 n02326432 n03637318 n01980166 n02113799 n02086240 n03903868
n02483362 n04127249 n02089973 n03017168 n02093428 n02804414 n02396427 n04418357 n02172182 n01729322
n02113978 n03787032 n02089867 n02119022 n03777754 n04238763 n02231487 n03032252 n02138441 n02104029
n03837869 n03494278 n04136333 n03794056 n03492542 n02018207 n04067472 n03930630 n03584829 n02123045
n04229816 n02100583 n03642806 n04336792 n03259280 n02116738 n02108089 n03424325 n01855672 n02090622
""".split()


@dataclass(frozen=True)
class Known:
    """Where a named source lies. ``wnids``: the classes taken, in the papers' order; None takes all."""

    hub_id: str | None
    image: str
    label: str
    test_split: str
    license: str | None = None
    wnids: Sequence[str] | None = None


_IMAGENET = ("ILSVRC/imagenet-1k", "image", "label", "validation", "imagenet terms of access (non-commercial research)")
KNOWN = {
    # name            Hub id                  image    label         test split    licence                       classes
    "digits": Known(None, "image", "label", "test", "cc-by-4.0"),
    "cifar10": Known("uoft-cs/cifar10", "img", "label", "test"),
    "cifar100": Known("uoft-cs/cifar100", "img", "fine_label", "test"),
    "tiny-imagenet": Known("zh-plus/tiny-imagenet", "image", "label", "valid"),
    "imagenette": Known(*_IMAGENET, IMAGENETTE),
    "imagewoof": Known(*_IMAGENET, IMAGEWOOF),
    "imageidc": Known(*_IMAGENET, IMAGENET100[:10]),
    "imagenet100": Known(*_IMAGENET, IMAGENET100),
    "imagenet1k": Known(*_IMAGENET),
}
FIT_VERSION = 1  # raised when the code that fits generators or teachers changes what it makes
_TEST_SPLITS = ("test", "validation", "valid", "val")


@dataclass(frozen=True)
class SourceClass:
    """One class of a source. Its position in `Source.classes` is its label in a distilled set."""

    name: str
    index: int | str  # its label in the source dataset
    wnid: str | None = None


@dataclass(frozen=True)
class Split:
    """One split: the rows, and their labels as positions in `Source.classes`."""

    source: str
    name: str
    dataset: Dataset = field(repr=False)
    labels: np.ndarray = field(repr=False)  # (N,) int64
    image_column: str

    def __len__(self) -> int:
        return len(self.labels)

    def pixels(self, indices: Sequence[int] | None, size: int) -> torch.Tensor:
        """Decode images, scale the shorter side to `size` (bilinear) and crop the centre.

        Args:
            indices: Rows to decode; None for all.
            size: Side of the result in pixels.

        Returns:
            uint8 (N, 3, size, size).

        Raises:
            InputError: For an image that cannot be decoded.
        """
        column = self.dataset.select_columns([self.image_column])
        indices = range(len(self)) if indices is None else indices
        result = torch.empty(len(indices), 3, size, size, dtype=torch.uint8)
        for place, row in enumerate(indices):
            try:
                image = column[int(row)][self.image_column].convert("RGB")
            except (OSError, SyntaxError) as error:  # PIL raises SyntaxError for some broken PNG files
                raise InputError(
                    "source", self.source, f"image of row {row} in split {self.name!r} cannot be decoded ({error})"
                ) from error
            if image.size != (size, size):
                image = ImageOps.fit(image, (size, size), PILImage.Resampling.BILINEAR)
            result[place] = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return result

    def draw_per_class(self, count: int, seed: int) -> np.ndarray:
        """Return `count` random rows of every class, class by class, as (C * count,) row numbers.

        See `check_ipc` for classes with fewer.
        """
        generator = np.random.default_rng(seed)
        rows = (np.flatnonzero(self.labels == label) for label in range(self.labels.max() + 1))
        return np.concatenate([generator.choice(own, count, replace=False) for own in rows])


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
        head = self.train.dataset.select(range(min(8, len(self.train))))
        sides = {side for image in head[self.train.image_column] for side in image.size}
        return sides.pop() if len(sides) == 1 else None

    @property
    def has_wnids(self) -> bool:
        """Whether every class is known by its WordNet id, as a model trained on ImageNet needs it."""
        return all(c.wnid for c in self.classes)

    def fingerprint(self) -> str:
        """Return the sha256 over the training split's labels and encoded images (of files: name and size)."""
        digest = hashlib.sha256(self.train.labels.astype("<i8").tobytes())
        column = self.train.dataset.select_columns([self.train.image_column]).cast_column(
            self.train.image_column, Image(decode=False)
        )
        for batch in column.iter(1000):
            for image in batch[self.train.image_column]:
                if image["bytes"] is not None:
                    digest.update(image["bytes"])
                else:
                    path = Path(image["path"])
                    digest.update(f"{path.name} {path.stat().st_size}".encode())
        return digest.hexdigest()


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
        # Stratification needs ClassLabel; the split is a function of the data and the fraction alone.
        encoded = splits["train"].class_encode_column(label_column)
        splits = encoded.train_test_split(test_fraction, stratify_by_column=label_column, seed=0)
        test_split = "test"
    if test_split not in splits:
        raise InputError(
            "test_split", test_split, f"{source} has {sorted(splits)}; name one with --test_split, or pass --test_fraction"
        )
    train, test = splits["train"], splits[test_split]
    feature = train.features[label_column]
    # What a row of the label column holds, class by class.
    values = list(range(len(feature.names))) if isinstance(feature, ClassLabel) else sorted(set(train[label_column]))
    names = feature.names if isinstance(feature, ClassLabel) else [str(value) for value in values]
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


def slug(name: str) -> str:
    """Return the last part of a source's name as it enters names of folders and repositories."""
    return Path(name).resolve().name.lower().replace("_", "-")


def fit_folder(source: Source, what: str, *settings: Any) -> Path:
    """Return the folder in the user's cache for a model fitted to a source: one per content of the source and settings."""
    key = json.dumps([FIT_VERSION, source.fingerprint(), source.class_names, what, *settings])
    return cache_dir() / f"{slug(source.name)}-{what}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def _digits() -> DatasetDict:
    """Load scikit-learn's 1,797 handwritten digits, enlarged from 8x8 to 16x16, with 500 of them as test split."""
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    small = [PILImage.fromarray(np.uint8(image / 16 * 255)) for image in digits.images]  # grey values 0..16
    images = [image.resize((16, 16), PILImage.Resampling.BILINEAR).convert("RGB") for image in small]
    features = Features({"image": Image(), "label": ClassLabel(names=[str(d) for d in range(10)])})
    whole = Dataset.from_dict({"image": images, "label": digits.target}, features=features)
    train, test = train_test_split(range(len(whole)), test_size=500, stratify=digits.target, random_state=0)
    return DatasetDict(train=whole.select(sorted(train)), test=whole.select(sorted(test)))


def _load(path: str, revision: str | None) -> tuple[DatasetDict, str | None]:
    """Return the splits, and the commit for a Hub dataset."""
    local = Path(path).exists()
    if not local:
        try:
            validate_repo_id(path)
        except HFValidationError:
            raise InputError("source", path, "there is no such folder, and it is not a Hub dataset id") from None
        if "/" not in path:
            raise InputError("source", path, f"known: {', '.join(KNOWN)}{nearest(path, list(KNOWN))}; or a Hub id org/name, "
                             "or an existing folder")  # fmt: skip
    try:
        # For a dataset on the Hub, the builder's hash is the commit that the revision stands for.
        commit = None if local else load_dataset_builder(path, revision=revision).hash
        return load_dataset(path, revision=commit), commit
    except (FileNotFoundError, DatasetGenerationError) as error:  # no such dataset, no data files, unreadable files
        raise InputError("source", path, f"a dataset with images is needed ({error.__cause__ or error})") from error
    except ConnectionError as error:
        raise InputError("source", path, f"the Hub cannot be reached and it is not in the cache ({error})") from error


def _column(field: str, name: str | None, features: Features, kind: type) -> str:
    if name is not None:
        if name not in features:
            raise InputError(field, name, f"the columns are {', '.join(features)}")
        return name
    found = [column for column, feature in features.items() if isinstance(feature, kind)]
    if not found and kind is ClassLabel:
        found = [column for column in ("label", "labels", "class_id", "class", "target") if column in features]
    if len(found) != 1:
        raise InputError(field, None, f"name one with --{field}; the columns are {', '.join(features)}")
    return found[0]


@cache
def imagenet_classes() -> tuple[list[str], list[str]]:
    """Return ImageNet-1K's wnids and descriptions (synonyms, comma separated), both in class-index order."""
    from timm.data import ImageNetInfo

    info = ImageNetInfo()
    return info.label_names(), [info.index_to_description(index) for index in range(1000)]


def _classes(names: Sequence[str], values: Sequence, wnids: Sequence[str] | None) -> list[SourceClass]:
    if wnids is not None or (len(names) == 1000 and _is_imagenet(names)):
        known, descriptions = imagenet_classes()
        short = [description.split(",")[0] for description in descriptions]
        # 'crane' and 'maillot' stand for two classes each.
        unique = [s if short.count(s) == 1 else f"{s} ({w})" for s, w in zip(short, known, strict=True)]
        return [SourceClass(unique[i], i, known[i]) for i in (known.index(wnid) for wnid in wnids or known)]
    is_wnid = re.compile(r"n\d{8}").fullmatch
    return [SourceClass(n, v, n if is_wnid(n) else None) for n, v in zip(names, values, strict=True)]


def _split(source: str, name: str, dataset: Dataset, label: str, classes: Sequence[SourceClass], image: str) -> Split:
    place = {c.index: position for position, c in enumerate(classes)}
    labels = np.array([place.get(value, -1) for value in dataset[label]], dtype=np.int64)
    rows = np.flatnonzero(labels >= 0)  # classes that are not taken, and unlabelled rows (-1), are left out
    if len(rows) == 0:
        raise InputError("source", source, f"split {name!r} holds no labelled images of the {len(classes)} classes")
    return Split(source, name, dataset if len(rows) == len(dataset) else dataset.select(rows), labels[rows], image)


def _is_imagenet(names: Sequence[str]) -> bool:
    """Whether 1,000 class names are ImageNet-1K's, in its order: by wnid, or by a shared synonym."""
    wnids, descriptions = imagenet_classes()
    pairs = zip(names, wnids, descriptions, strict=True)
    return all(name == wnid or _words(name) & _words(description) for name, wnid, description in pairs)


def _words(name: str) -> set[str]:
    """Split 'tench, Tinca_tinca' into its synonyms."""
    return {part.strip().lower().replace("_", " ") for part in name.split(",")}


def match_classes(classes: Sequence[SourceClass], names: Sequence[str], field: str, what: str) -> list[int]:
    """Find every class of a source among the classes of a model, by wnid or name, never by position.

    Args:
        classes: The source's classes.
        names: The model's class names, in its order.
        field: Option to blame, e.g. 'generator'.
        what: The model, for the message.

    Returns:
        The model's index for each class.

    Raises:
        InputError: Naming the classes that are missing or fit several of the model's.
    """
    if len(names) == 1000 and all(c.wnid for c in classes) and _is_imagenet(names):
        wnids, _ = imagenet_classes()
        return [wnids.index(c.wnid) for c in classes]
    if not names:
        raise InputError(field, what, "its class names are not known; its model_index.json or config.json needs id2label")
    found, missing = [], []
    for c in classes:
        exact = [i for i, name in enumerate(names) if name in (c.name, c.wnid)]
        fits = exact or [i for i, name in enumerate(names) if _words(name) & _words(c.name)]
        if len(fits) == 1:
            found += fits
        else:
            missing.append(c.name)
    if missing:
        shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
        raise InputError(field, what, f"its {len(names)} classes ({', '.join(names[:3])}, ...) do not give one for: {shown}")
    return found
