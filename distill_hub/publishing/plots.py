"""Pictures for the card."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import PIL.Image

from distill_hub.disk.files import atomic_write

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_CLASSES = 20
MAX_IMAGES = 10  # per class
SIDE = 64  # pixels of a small image on the page; larger images keep their size up to twice this
GAP = 4  # pixels between images
LETTER = 9  # pixels that a letter of a class's name takes beside them, about
INK = "#222222"
# Okabe and Ito's colours, which colour-blind people can tell apart, without the two that are faint on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#000000")


def spread(count: int, most: int) -> np.ndarray:
    """Return at most `most` of the numbers below `count`, evenly spread from first to last."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).round().astype(int))


def drawable(class_names: Sequence[str]) -> list[str]:
    """Return what classes are called in a picture: their names, or 'label 4' where the font lacks a character of one."""
    from matplotlib.font_manager import FontProperties, findfont, get_font

    known = get_font(findfont(FontProperties())).get_charmap()
    return [
        name if all(ord(character) in known for character in name) else f"label {label}"
        for label, name in enumerate(map(str, class_names))
    ]


def preview_grid(images: Sequence[np.ndarray], class_names: Sequence[str], path: Path) -> None:
    """Draw the set: one row per class, its name at the left; of at most 10 classes of one image, a single row, names above.

    Beyond 20 classes, 20 spread evenly over the label order are drawn; of each, the first 10 images.

    Args:
        images: uint8 (C, n, H, W, 3), or C arrays (n, H, W, 3).
        class_names: The C names.
        path: The PNG file to write.
    """
    shown = spread(len(class_names), MAX_CLASSES)
    tiles = [[_tile(image) for image in images[c][:MAX_IMAGES]] for c in shown]
    names = drawable(class_names)
    if _is_one_row([len(own) for own in images]):
        tiles = [[tile for (tile,) in tiles]]
        _sheet(tiles, path, rows=[], columns=[short(name, _letters(tiles[0][0])) for name in names])
    else:
        _sheet(tiles, path, rows=[short(names[c]) for c in shown])


def _is_one_row(counts: Sequence[int]) -> bool:
    """Whether the preview of classes of so many images is a single row."""
    return len(counts) <= MAX_IMAGES and set(counts) == {1}


def _letters(tile: np.ndarray) -> int:
    """Return how many letters fit above an image."""
    return tile.shape[0] // 6


def preview_width(class_names: Sequence[str], counts: Sequence[int], image_size: int, most: int) -> int:
    """Return the width at which a preview has neither more than `most` pixels of width nor of height; a row, twice as many.

    Args:
        class_names: See `preview_grid`.
        counts: Images of each class.
        image_size: Their side, in pixels.
        most: Pixels of the side of the square that holds the picture.
    """
    shown = spread(len(class_names), MAX_CLASSES)
    step = _tile(np.zeros((image_size, image_size, 3), np.uint8)).shape[0] + GAP
    if _is_one_row(counts):
        return min(2 * most, len(counts) * step)
    names = max(len(short(class_names[c])) for c in shown) * LETTER
    width = min(MAX_IMAGES, max(counts[c] for c in shown)) * step + names
    return round(most * min(1, width / (len(shown) * step)))


def refinement_grid(
    before: np.ndarray,
    after: np.ndarray,
    class_names: Sequence[str],
    path: Path,
    *,
    rows: tuple[str, str] = ("before", "after"),
) -> None:
    """Draw images before and after a refinement, and below what changed, amplified (CaO2, Fig. 4).

    The difference |after - before| of each channel is multiplied by one factor for all images, which is printed: the whole
    number up to which 99 % of the values stay within 255. What is beyond is cut.

    Args:
        before: uint8 (n, H, W, 3).
        after: uint8 (n, H, W, 3), of the same images.
        class_names: Class of each.
        path: The PNG file to write.
        rows: What the two are called.
    """
    change = np.abs(after.astype(np.int64) - before)
    factor = max(1, int(255 / max(1, np.percentile(change, 99))))
    amplified = np.minimum(255, factor * change).astype(np.uint8)
    shown = {rows[0]: before, rows[1]: after, f"difference \N{MULTIPLICATION SIGN} {factor}": amplified}
    tiles = [[_tile(image) for image in images] for images in shown.values()]
    columns = [short(str(name), _letters(tiles[0][0])) for name in class_names]
    _sheet(tiles, path, rows=list(shown), columns=columns)


def embedding_map(embeddings: Mapping[str, Sequence[np.ndarray]], class_names: Sequence[str], path: Path) -> None:
    """Draw embeddings on the two directions along which those of the first kind vary most (their principal components).

    Args:
        embeddings: Kind of image, of at most three, to float (n, D) per class, for at most `len(COLORS)` classes; n may
            differ. The last kind is drawn largest, and over the others.
        class_names: Of these classes.
        path: The PNG file to write.
    """
    from sklearn.decomposition import PCA

    first, *_ = embeddings.values()
    projection = PCA(2, svd_solver="full").fit(np.concatenate(first))  # exact: nothing is drawn at random
    figure = _figure(7, 5, layout="constrained")
    axes = figure.subplots()
    how = [
        {"marker": ".", "s": 34, "linewidth": 0, "alpha": 0.5},
        {"marker": "x", "s": 18, "linewidth": 0.9},
        {"marker": "o", "s": 46, "linewidth": 1.1, "edgecolor": INK},
    ]
    how = [*how[: len(embeddings) - 1], how[-1]]
    for kind, style in zip(embeddings, how, strict=True):
        for own, color in zip(embeddings[kind], COLORS, strict=False):
            axes.scatter(*projection.transform(own).T, color=color, **style)
        axes.scatter([], [], color=INK, label=kind, **style)
    # Names beside the colours, which not everybody can tell apart.
    for own, name, color in zip(first, class_names, COLORS, strict=False):
        place = np.median(projection.transform(own), axis=0)
        box = {"boxstyle": "round,pad=0.25", "facecolor": "white", "edgecolor": color, "linewidth": 1.8, "alpha": 0.85}
        axes.annotate(short(str(name)), place, color=INK, fontsize=10, ha="center", va="center", bbox=box)
    shares = [f"{share:.0%}" for share in projection.explained_variance_ratio_]
    _frame(axes, "")
    axes.set_xticks([])
    axes.set_yticks([])
    kind = next(iter(embeddings))
    axes.set_xlabel(f"first principal component, {shares[0]} of the variance of the {kind} images", fontsize=9, color=INK)
    axes.set_ylabel(f"second, {shares[1]}", fontsize=9, color=INK)
    axes.legend(fontsize=9, frameon=False, loc="upper center", ncols=len(embeddings), bbox_to_anchor=(0.5, 1.09))
    _write(figure, path)


def learning_curves(panels: Mapping[str, Mapping[str, np.ndarray]], looks: Mapping[str, Sequence[int]], path: Path) -> None:
    """Draw test accuracy by epoch: a panel for each student, a pale line for each seed, their mean over them.

    Args:
        panels: Student to what it was trained on, at most `len(COLORS)`, to accuracies (seeds, looks) in [0, 1].
        looks: Student to the epochs, from 1, after which the test split was looked at.
        path: The PNG file to write.
    """
    figure = _figure(max(5, 4 * len(panels)), 3.4, layout="constrained")
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (student, sets) in zip(row, panels.items(), strict=True):
        for (name, curves), color, marker in zip(sets.items(), COLORS, "osD^v<>", strict=False):
            axes.plot(looks[student], 100 * curves.T, color=color, linewidth=0.8, alpha=0.4)
            mean = 100 * curves.mean(0)
            style = {"linewidth": 1.8, "marker": marker, "markersize": 5, "markevery": -(-len(mean) // 10)}
            axes.plot(looks[student], mean, color=color, label=name, **style)
        _frame(axes, student)
        axes.set_xlabel("epoch", fontsize=9, color=INK)
    row[0].set_ylabel("test accuracy in %", fontsize=9, color=INK)
    row[-1].legend(fontsize=8, frameon=False, loc="best")
    _write(figure, path)


def loss_curves(losses: np.ndarray, names: Sequence[str], path: Path) -> None:
    """Draw the losses of a training, one below the other: every step's pale, their running mean over it.

    Args:
        losses: (steps, n).
        names: The n names.
        path: The PNG file to write.
    """
    figure = _figure(7, 1.6 * len(names), layout="constrained")
    width = max(1, len(losses) // 50)
    steps = np.arange(1, len(losses) + 1)
    for axes, name, values in zip(
        figure.subplots(len(names), 1, sharex=True, squeeze=False)[:, 0], names, losses.T, strict=True
    ):
        mean = np.convolve(values, np.ones(width) / width, mode="valid")
        axes.plot(steps, values, color="#9db8d9", linewidth=0.6)
        axes.plot(steps[width - 1 :], mean, color="#1f4e8c", linewidth=1.6)
        # A few steps far out, as the very first ones, would flatten the rest.
        low, high = np.percentile(values, (0.5, 99.5))
        axes.set_ylim(low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1))
        _frame(axes, name)
    axes.set_xlabel("optimiser step", fontsize=9, color=INK)
    _write(figure, path)


def difficulty_chart(counts: Mapping[str, Mapping[str, np.ndarray]], target: np.ndarray, path: Path) -> None:
    """Draw histograms of difficulties: a row of panels for each state, a column for each kind of image.

    Args:
        counts: State ('as measured', ...) to kind ('real', ...), the same for all states, to counts (bins,) over [0, 1].
        target: (bins,), the counts wanted of the last kind in the last state; an outline in its panel.
        path: The PNG file to write.
    """
    columns = len(next(iter(counts.values())))
    figure = _figure(3 * columns, 2.2 * len(counts), layout="constrained")
    panels = figure.subplots(len(counts), columns, sharex=True, squeeze=False)
    for row, (state, kinds) in zip(panels, counts.items(), strict=True):
        row[0].set_ylabel(f"{state}\nimages", fontsize=9, color=INK)
        for axes, (kind, values) in zip(row, kinds.items(), strict=True):
            edges = np.linspace(0, 1, len(values) + 1)
            axes.bar(edges[:-1], values, width=edges[1], align="edge", color="#9db8d9", edgecolor="#1f4e8c", linewidth=0.6)
            _frame(axes, kind)
    panels[-1, -1].stairs(target, np.linspace(0, 1, len(target) + 1), color="#b03a2e", linewidth=1.4, label="target")
    panels[-1, -1].legend(fontsize=8, frameon=False)
    for axes in panels[-1]:
        axes.set_xlabel("difficulty", fontsize=9, color=INK)
    _write(figure, path)


def _sheet(tiles: Sequence[Sequence[np.ndarray]], path: Path, *, rows: Sequence[str], columns: Sequence[str] = ()) -> None:
    """Write rows of equally large images (H, H, 3), named at the left and, where there are names, above the columns."""
    side = tiles[0][0].shape[0]
    step = side + GAP
    height, width = len(tiles) * step - GAP, max(map(len, tiles)) * step - GAP
    canvas = np.full((height, width, 3), 255, dtype=np.uint8)
    for y, row in enumerate(tiles):
        for x, tile in enumerate(row):
            canvas[y * step : y * step + side, x * step : x * step + side] = tile

    # One canvas pixel is one pixel of the file.
    figure = _figure(width / 100, height / 100)
    axes = figure.add_axes((0, 0, 1, 1))
    axes.imshow(canvas, interpolation="none", aspect="auto")
    axes.set_xticks([x * step + (side - 1) / 2 for x in range(len(columns))], columns)
    axes.set_yticks([y * step + (side - 1) / 2 for y in range(len(rows))], rows)
    axes.tick_params(left=False, labelsize=11, labelcolor=INK, pad=6)
    axes.tick_params(axis="x", top=False, bottom=False, labeltop=True, labelbottom=False, labelsize=8)
    axes.spines[:].set_visible(False)
    _write(figure, path, bbox_inches="tight", pad_inches=0.12)


def _figure(width: float, height: float, **how: Any) -> "Figure":
    """Return an empty page of so many hundred pixels: a Figure of its own, not pyplot's, which looks for a display."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg  # a second, which only who draws waits for
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100, facecolor="white", **how)
    FigureCanvasAgg(figure)
    return figure


def _frame(axes: "Axes", title: str) -> None:
    """Give a panel its title, and leave out the lines that say nothing."""
    axes.set_title(title, fontsize=10, loc="left", color=INK)
    axes.tick_params(labelsize=8, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)


def _write(figure: "Figure", path: Path, **how: Any) -> None:
    buffer = io.BytesIO()
    # matplotlib's version in the file would change its bytes with every release
    figure.savefig(buffer, format="png", metadata={"Software": None}, **how)
    atomic_write(path, buffer.getvalue())


def _tile(image: np.ndarray) -> np.ndarray:
    """Bring an image (H, W, 3) to the size it has on the page, without blurring small ones."""
    side = image.shape[0]
    if side > 2 * SIDE:
        return np.asarray(PIL.Image.fromarray(image).resize((2 * SIDE, 2 * SIDE), PIL.Image.Resampling.LANCZOS))
    factor = max(1, round(SIDE / side))
    return image.repeat(factor, axis=0).repeat(factor, axis=1)


def short(name: str, limit: int = 28) -> str:
    """Shorten a long name, and keep matplotlib from reading `$` as mathematics."""
    return (name if len(name) <= limit else name[: limit - 1] + "…").replace("$", r"\$")
