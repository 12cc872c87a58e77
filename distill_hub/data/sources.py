"""Real datasets: known names, any Hub id, and any local folder that `load_dataset` reads."""

import hashlib
import json
import os
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from datasets import ClassLabel, Dataset, Features, Image
from PIL import Image as PILImage

from distill_hub.config import InputError, refusing
from distill_hub.data.card import CARD, card_splits, read_card
from distill_hub.data.classes import SourceClass, imagenet_classes, is_imagenet
from distill_hub.data.folders import LeftOut, left_out_line, list_folder, read_inside
from distill_hub.data.image_folder import open_image_folder
from distill_hub.data.images import READABLE
from distill_hub.data.known import KNOWN, Normalization, check_source, known_by_id
from distill_hub.data.rows import Choose, Opened, Rows
from distill_hub.data.rows import image_column as find_image_column
from distill_hub.data.rows import label_column as find_label_column
from distill_hub.data.split import Split
from distill_hub.data.split_names import TEST_SPLITS, find_split
from distill_hub.data.tables import choose_config, open_hub, open_tables
from distill_hub.disk.files import cache_dir, slug
from distill_hub.parsing import CARD_BYTES
from distill_hub.running.console import show
from distill_hub.running.versions import versions

FIT_VERSION = 2  # raised when the code that fits generators or teachers changes what it makes


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
    config: str | None = None  # its configuration, where one was named
    license: str | None = None
    test_fraction: float = 0.0
    mirrored: bool = True  # whether a mirrored image still shows its class
    normalization: Normalization = "imagenet"  # of images of at most 64 px

    @property
    def class_names(self) -> list[str]:
        """Class names in label order."""
        return [c.name for c in self.classes]

    @property
    def image_size(self) -> int | None:
        """Side in px when the training images are square and agree, see `Split.sizes`, else None."""
        sides = np.unique(self.train.sizes)
        return int(sides[0]) if len(sides) == 1 else None

    @property
    def median_side(self) -> int:
        """Median of the shorter sides of the training images in px, see `Split.sizes`."""
        return int(np.median(self.train.sizes.min(1)))

    @property
    def has_wnids(self) -> bool:
        """Whether every class is known by its WordNet id, as a model trained on ImageNet needs it."""
        return all(c.wnid for c in self.classes)

    @property
    def fingerprint(self) -> str:
        """That of the training split."""
        return self.train.fingerprint


def load_source(
    source: str,
    *,
    source_revision: str | None = None,
    source_config: str | None = None,
    train_split: str | None = None,
    test_split: str | None = None,
    image_column: str | None = None,
    label_column: str | None = None,
    test_fraction: float = 0.0,
    mirrored: Literal["yes", "no"] | None = None,
    normalization: Normalization | None = None,
) -> Source:
    """Load a real dataset, and say on the main process what of it is not used.

    Args:
        source: A key of `KNOWN`, a Hub id `org/name`, or a local folder of images or tables.
        source_revision: Branch, tag or commit of a Hub dataset. The commit it stands for is recorded.
        source_config: Configuration, where there are several.
        train_split: Name of the training split; default: train, or the only split when a part of it is held out.
        test_split: Name of the test split; default: the first of test, validation, valid, val.
        image_column: Name of the image column; default: the known one, or the only column of images.
        label_column: Name of the label column; default: the known one, or the only ClassLabel.
        test_fraction: Share of the training split held out, stratified with seed 0, when there is no test split.
        mirrored: Whether a mirrored image still shows its class; default: as known of the dataset, else yes.
        normalization: Of images of at most 64 px; default: as known of the dataset, else ImageNet's.

    Raises:
        InputError: For a source, configuration, column or split that does not exist, or one that would be a guess.
    """
    check_source(source)
    known = KNOWN.get(source)
    source_config = source_config or (known and known.config)

    def choose(splits: Sequence[str]) -> list[str]:
        train = _train_split(source, splits, train_split, test_fraction)
        test = _test_split(source, splits, train, test_split or (known and known.test_split), test_fraction)
        return [train, test] if test else [train]

    how: dict[str, Any] = {
        "named": [name for name in (train_split, test_split) if name],
        "image_column": image_column or (known and known.image),
        "label_column": label_column or (known and known.label),
    }
    if source == "digits":
        choose_config(source, {}, None, source_config)
        opened = _digits(choose, image_column, label_column)
    elif known or not os.path.isdir(folder := os.path.expanduser(source)):
        opened = open_hub(known.hub_id if known else source, source_revision, source_config, choose, **how)
    else:
        opened = _open_folder(source, folder, source_config, choose, how)
    train, test = (*opened.splits, None)[:2]
    rows = opened.splits[train]
    classes = _classes(*_names(source, rows), known.wnids if known else None)
    training, left_out = _split(source, train, rows, classes, opened), dict(opened.left_out)
    if test is None:
        if len(alone := np.flatnonzero(np.bincount(training.labels) == 1)):
            valid = f"class {classes[alone[0]].name!r} has one image, and needs one to train on and one to test on"
            raise InputError("test_fraction", test_fraction, valid)
        training, testing = _hold_out(training, test_fraction)
    else:
        testing = _split(source, test, opened.splits[test], classes, opened)
    if len(classes) < 2:
        raise InputError("source", source, f"its images are all of one class, {classes[0].name!r}; two or more are needed")
    if not (known and known.wnids):
        _count_left_out(left_out, opened, classes)
    hub_id = known.hub_id if known else (source if opened.commit else None)
    identity = known or known_by_id(hub_id)
    shows_mirrored = mirrored == "yes" if mirrored else identity is None or identity.mirrored
    may_be_digits = mirrored is None and identity is None and all(c.name.isdigit() for c in classes)
    result = Source(
        name=source,
        train=training,
        test=testing,
        classes=classes,
        label_column=opened.label_column,
        hub_id=hub_id,
        revision=opened.commit,
        config=source_config,
        license=known.license if known else None,
        test_fraction=test_fraction if test is None else 0.0,
        mirrored=shows_mirrored,
        normalization=normalization or (identity.normalization if identity else "imagenet"),
    )
    _say(result, left_out, may_be_digits)
    return result


def _open_folder(source: str, folder: str, config: str | None, choose: Choose, how: Mapping[str, Any]) -> Opened:
    """Open a local folder: as its card says, or by what lies in it."""
    found = list_folder(source, folder)
    card = read_inside(source, folder, CARD, CARD_BYTES) if os.path.isfile(os.path.join(folder, CARD)) else b""
    configs, infos = read_card("source", source, card)
    chosen = choose_config(source, configs, configs.get_default_config_name(), config)
    given = None
    if chosen is not None:
        given = card_splits("source", source, configs[chosen], [*found.images, *found.tables])
        if empty := [split for split, own in (given or {}).items() if not own]:
            raise InputError("source", source, f"its card names files of split {empty[0]!r}; the folder holds no such file")
        if given is None and (place := configs[chosen].get("data_dir")):
            if not isinstance(place, str) or os.path.isabs(place) or os.path.normpath(place).startswith(".."):
                raise InputError("source", source, f"its card names the folder {place!r}, which does not lie in it")
            found = list_folder(source, os.path.join(folder, place))
    info = infos.get(chosen or "default")
    images, stores = len(found.images), sum(name.lower().endswith((".parquet", ".arrow", ".tar")) for name in found.tables)
    if given is not None:
        of_images = not set(found.images).isdisjoint(name for own in given.values() for name in own)
    else:
        of_images = images > 10 * stores  # beside tables, a few pictures belong to the card
    if of_images:
        return open_image_folder(source, found, choose, given=given, quiet=not _is_main(), **how)
    if not found.tables:
        what = left_out_line(found.left_out) or "nothing"
        raise InputError("source", source, f"it holds no images ({READABLE}) and no tables; what it holds: {what}")
    return open_tables(source, found, choose, given=given, features=info.features if info else None, **how)


def _train_split(source: str, splits: Sequence[str], wanted: str | None, fraction: float) -> str:
    if found := find_split(wanted or "train", splits):
        return found
    if wanted is None and len(splits) == 1 and fraction > 0:
        return splits[0]
    valid = f"{source} has the splits {', '.join(splits)}"
    if wanted is None:
        raise InputError(
            "source", source, f"a split named 'train' is needed, or one named with --train_split; it has {list(splits)}"
        )
    raise InputError("train_split", wanted, valid)


def _test_split(source: str, splits: Sequence[str], train: str, wanted: str | None, fraction: float) -> str | None:
    """Return the test split; None: a part of the training split is to be held out."""
    found = find_split(wanted, splits) if wanted else next((s for s in TEST_SPLITS if s in splits and s != train), None)
    if found == train:
        raise InputError("test_split", wanted, "it is the training split; name another one, or pass --test_fraction alone")
    if found is None and (wanted is not None or fraction == 0):
        valid = f"{source} has {list(splits)}; name one with --test_split, or pass --test_fraction"
        raise InputError("test_split", wanted, valid)
    return found


def _hold_out(whole: Split, fraction: float) -> tuple[Split, Split]:
    """Split off a share (or an integer number) of the rows as test split, stratified with seed 0."""
    from sklearn.model_selection import train_test_split

    with refusing((ValueError,), "test_fraction", fraction, "the training split must allow it"):
        train, test = train_test_split(range(len(whole)), test_size=fraction, stratify=whole.labels, random_state=0)
    return whole.select(sorted(train), whole.name), whole.select(sorted(test), "test")


def check_ipc(source: Source, ipc: int, option: str = "ipc") -> None:
    """Refuse more images per class than the smallest class of the training split has.

    Args:
        source: The real images.
        ipc: Images per class, or what else cannot be more than these.
        option: Its name.

    Raises:
        InputError: Naming the class.
    """
    counts = np.bincount(source.train.labels, minlength=len(source.classes))
    smallest = int(counts.argmin())
    if ipc > counts[smallest]:
        raise InputError(
            option, ipc, f"class {source.class_names[smallest]!r} of {source.name} has {counts[smallest]} images"
        )


def fit_folder(source: Source, what: str, *settings: Any) -> Path:
    """Return the folder in the user's cache for what is made from a source: one per content of it, settings and versions."""
    key = json.dumps([FIT_VERSION, versions(), source.fingerprint, source.class_names, what, *settings])
    return cache_dir() / f"{slug(source.name)}-{what}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def _digits(choose: Choose, image: str | None, label: str | None) -> Opened:
    """Load scikit-learn's 1,797 handwritten digits, enlarged from 8x8 to 16x16, with 500 of them as test split."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    small = [PILImage.fromarray(np.uint8(image / 16 * 255)) for image in digits.images]  # grey values 0..16
    images = [image.resize((16, 16), PILImage.Resampling.BILINEAR).convert("RGB") for image in small]
    whole = Dataset.from_dict({"image": images}, features=Features({"image": Image()}))
    parts = _hold_out(Split("digits", "train", whole, np.asarray(digits.target), "image"), 500)
    names = [str(digit) for digit in range(10)]
    splits = {part.name: Rows(part.dataset, part.labels.tolist(), names) for part in parts}
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    columns = find_image_column(image, features), find_label_column(label, features)
    return Opened({split: splits[split] for split in choose(list(splits))}, *columns, {})


def _names(source: str, rows: Rows) -> tuple[list[str], list[int | str]]:
    """Return the names of a source's classes, and what a row of its label column holds for each."""
    values: list[int | str]
    if rows.names is None:
        values = sorted(set(rows.labels) - {None})
        if isinstance(values[0] if values else "", int) and values[0] < 0:
            valid = (
                f"it has the label {values[0]}, and no names; classes are 0, 1, ... or texts, and no label is an empty cell"
            )
            raise InputError("source", source, valid)
        names = [str(value) for value in values]
    else:
        names, values = rows.names, [*range(len(rows.names))]
        if other := [name for name in names if not isinstance(name, str)]:  # YAML makes more of no, 1 and null
            raise InputError("source", source, f"a class is called {other[0]!r}, which is no text; quote it in the card")
        if outside := sorted({v for v in rows.labels if v is not None and not -1 <= v < len(names)}):
            raise InputError("source", source, f"it has labels such as {outside[0]}, and names of {len(names)} classes")
    if bad := [name for name in names if not name.strip() or not name.isprintable()]:
        raise InputError("source", source, f"a class is called {bad[0][:60]!r}; names of printable characters are needed")
    alike = Counter(name.strip() for name in names)
    if twice := [name for name in names if name != name.strip() and alike[name.strip()] > 1]:
        raise InputError("source", source, f"the class {twice[0]!r} differs from another by spaces at its ends alone")
    return names, [int(value) if isinstance(value, bool) else value for value in values]


def _classes(names: Sequence[str], values: Sequence, wnids: Sequence[str] | None) -> list[SourceClass]:
    if wnids is not None or (len(names) == 1000 and is_imagenet(names)):
        known, descriptions = imagenet_classes()
        short = [description.split(",")[0] for description in descriptions]
        # 'crane' and 'maillot' stand for two classes each.
        unique = [s if short.count(s) == 1 else f"{s} ({w})" for s, w in zip(short, known, strict=True)]
        return [SourceClass(unique[i], i, known[i]) for i in (known.index(wnid) for wnid in wnids or known)]
    is_wnid = re.compile(r"n\d{8}").fullmatch
    return [SourceClass(n, v, n if is_wnid(n) else None) for n, v in zip(names, values, strict=True)]


def _split(source: str, name: str, rows: Rows, classes: Sequence[SourceClass], opened: Opened) -> Split:
    place = {c.index: position for position, c in enumerate(classes)}
    labels = np.array([place.get(value, -1) for value in rows.labels], dtype=np.int64)
    whole = Split(source, name, rows.dataset, labels, opened.image_column, rows.facts, rows.files, rows.origin)
    used = np.flatnonzero(labels >= 0)  # classes that are not taken, and unlabelled rows (-1), are left out
    if len(used) == 0:
        raise InputError("source", source, f"split {name!r} holds no labelled images of the {len(classes)} classes")
    return whole if len(used) == len(labels) else whole.select(used, name)


def _count_left_out(left_out: LeftOut, opened: Opened, classes: Sequence[SourceClass]) -> None:
    """Add the rows that are not used, because they have no label or one that the training split has not."""
    known = {c.index for c in classes}
    for split, rows in opened.splits.items():
        for number, label in enumerate(rows.labels):
            if label is None or (rows.names is not None and label == -1 and rows.facts is None):
                left_out.setdefault("without a label", []).append(f"row {number} of {split}")
            elif label not in known and rows.facts is None:
                left_out.setdefault("of classes that the training split has not", []).append(f"row {number} of {split}")


def _is_main() -> bool:
    return os.environ.get("RANK", "0") == "0"


def _say(source: Source, left_out: LeftOut, may_be_digits: bool) -> None:
    """Say what is not used, which test images are training images byte for byte, and what was assumed of the classes."""
    lines = []
    if left_out:
        used = len(source.train) + len(source.test)
        lines.append(f"{used:,} images of {len(source.classes):,} classes; not used: {left_out_line(left_out)}")
    if source.train.facts and source.test.facts:
        train, test = (np.ascontiguousarray(split.facts.sha256).view("V32") for split in (source.train, source.test))
        if count := int(np.isin(test, train).sum()):
            lines.append(f"{count:,} of its {len(source.test):,} test images are training images, too, byte for byte")
    if may_be_digits:
        lines.append(
            "its classes are called by numbers, and its images may be mirrored; if they are digits, pass --mirrored no"
        )
    if _is_main():
        for line in lines:
            show(f"source: {line}")
