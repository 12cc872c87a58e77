"""Draws cards/pictures/first-screen.png: ten images of each kind, what a network learns from them, and from more of them.

    python tests/bench/first_screen.py outputs/study/cifar10

The images are those of the study's folder, the numbers those of its records in cards/results. What is not made is left out.
"""

import argparse
import io
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from kept import Study, studies

from distill_hub import load_distilled
from distill_hub.artifact.find import MANIFEST
from distill_hub.artifact.names import method_title
from distill_hub.disk.files import atomic_write
from distill_hub.publishing.plots import COLORS, INK

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ROOT = Path(__file__).parents[2]
PICTURE = "cards/pictures/first-screen.png"
TABLE = "judge/dsa-hard"
# What is shown: of each line the first set that is there, and what it is. Recovered sets are not: they take statistics of a
# class from more images than one, and are made for a teacher's labels.
KINDS = {
    "real images": ("random",),
    "matched": ("dm",),
    "matched, tiled": ("idc",),
    "generated": ("psr", "cao2", "mgd3", "igd", "minimax", "dgs", "d4m", "plain"),
}
WIDTH, HEIGHT, DPI = 1600, 620, 100  # in pixels: it is shown half as wide on a screen, and a quarter on a phone
SIDE, GAP, PITCH = 74, 6, 103  # of an image, between two, and from a strip to the next
LEFT, TOP, TITLE = 194, 98, 44  # where the strips begin, and the middle of the line above them
CURVES = (1188, 98, 246, 420)  # left, top, width and height
LARGE, SMALL, TINY = 22, 17, 14  # points
FAINT = "#57606a"
LONGEST = 10  # characters of a name at the left of a strip


def main() -> None:
    """Draw it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="the study's, which holds NAME-ipcN")
    parser.add_argument("--root", type=Path, default=ROOT, help="of the checkout")
    args = parser.parse_args()
    study = next(study for study in studies(args.root) if TABLE in study.tables)
    made = {kind: [own for own in names if (place(args.folder, own) / MANIFEST).is_file()] for kind, names in KINDS.items()}
    shown = {kind: names[0] for kind, names in made.items() if names}
    figure = page()
    strips(figure, study, args.folder, shown)
    curves(figure, study, [own for own in shown.values() if own != "random"])
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": None})
    atomic_write(args.root / PICTURE, buffer.getvalue())


def place(folder: Path, name: str) -> Path:
    """Return where the set with one image per class lies."""
    return folder / f"{name}-ipc1"


def page() -> "Figure":
    """Return an empty white page."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    return figure


def color(index: int) -> str:
    """Return the colour of a kind: that of real images is grey."""
    return FAINT if index == 0 else COLORS[(index - 1) % len(COLORS)]


def strips(figure: "Figure", study: Study, folder: Path, shown: dict[str, str]) -> None:
    """Draw the images, a strip for each kind, with its name at the left and its accuracy at the right."""
    canvas = figure.add_axes((0, 0, 1, 1))
    canvas.set_axis_off()
    right = LEFT + 10 * SIDE + 9 * GAP
    say(canvas, LEFT, TITLE, f"{study.title.partition(':')[0]} in ten images", size=LARGE, weight="bold")
    say(canvas, right + 18, TITLE, "accuracy", size=SMALL, color=FAINT)
    say(canvas, CURVES[0] - 32, TITLE, "and in more", size=LARGE, weight="bold")
    say(canvas, CURVES[0] + 190, TITLE, "accuracy in %", size=SMALL, color=FAINT)
    for i, (kind, own) in enumerate(shown.items()):
        made = load_distilled(str(place(folder, own)))
        pixels = made.pixels[np.unique(made.labels, return_index=True)[1]].transpose(0, 2, 3, 1)  # the first of each class
        y = TOP + i * PITCH
        for j, image in enumerate(pixels[:10]):
            x = LEFT + j * (SIDE + GAP)
            canvas.imshow(image, extent=(x, x + SIDE, y + SIDE, y), interpolation="none", aspect="auto")
        name = "real" if own == "random" else short(method_title(made.manifest.method), own)
        say(canvas, LEFT - 18, y + 28, name, size=LARGE, color=color(i), weight="bold", ha="right")
        say(canvas, LEFT - 18, y + 57, "at random" if own == "random" else kind, size=TINY, color=FAINT, ha="right")
        if score := study.score(TABLE, own, 1):
            text = f"{100 * score.mean:.0f} %"
            say(canvas, right + 18, y + SIDE / 2, text, size=LARGE + 6, color=color(i), weight="bold")
    canvas.set_xlim(0, WIDTH)  # not before, since every image moves them
    canvas.set_ylim(HEIGHT, 0)


def short(title: str, own: str) -> str:
    """Return what there is room for of a method's title, or the name of its set in the plan as an abbreviation."""
    return title if len(title) <= LONGEST else own.upper()


def say(axes: "Axes", x: float, y: float, text: str, **how: object) -> None:
    """Write text in the middle of a line at y."""
    axes.text(x, y, text.replace("$", r"\$"), va="center", **{"color": INK, **how})


def curves(figure: "Figure", study: Study, names: Sequence[str]) -> None:
    """Draw accuracy over images per class, with the name of each line at its end."""
    sizes = study.ipc(TABLE)
    left, top, width, height = CURVES
    axes = figure.add_axes((left / WIDTH, 1 - (top + height) / HEIGHT, width / WIDTH, height / HEIGHT))
    axes.set_xscale("log")
    titles, ends = study.names(TABLE), []
    called = [short(titles.get(name, name), name) for name in names]
    drawn = [(called[i], partial(study.score, TABLE, name), color(i + 1), "-o") for i, name in enumerate(names)]
    drawn.append(("best coreset", partial(study.best_coreset, TABLE), FAINT, ":"))
    drawn.append(("random real", partial(study.score, TABLE, "random"), FAINT, "--"))
    for label, of, own, style in drawn:
        if found := {ipc: 100 * score.mean for ipc in sizes if (score := of(ipc))}:
            axes.plot(list(found), list(found.values()), style, color=own, linewidth=3, markersize=8)
            ends.append((*list(found.items())[-1], label, own))
    if real := study.all_real(study.tables[TABLE][0]):
        axes.axhline(100 * real, color=INK, linewidth=2)
        text, above = f"all real images {100 * real:.0f} %", {"textcoords": "offset points", "xytext": (0, 6)}
        axes.annotate(text, (sizes[0], 100 * real), fontsize=SMALL, color=INK, **above)
    highest = 1.12 * max([100 * (real or 0), *(end[1] for end in ends)])
    axes.set_ylim(0, highest)
    frame(axes, sizes)
    for (x, value, label, own), y in zip(ends, apart([end[1] for end in ends], 0.063 * highest), strict=True):
        axes.annotate(label, (x, value), (x * 1.22, y), color=own, fontsize=SMALL, va="center", annotation_clip=False)


def frame(axes: "Axes", sizes: Sequence[int]) -> None:
    """Leave of the axes what is needed."""
    axes.set_xlim(0.85 * sizes[0], 1.15 * sizes[-1])
    axes.set_xticks(sizes, [str(size) for size in sizes])
    axes.minorticks_off()
    axes.tick_params(labelsize=SMALL, labelcolor=INK)
    axes.spines[["top", "right"]].set_visible(False)
    axes.set_xlabel("images per class", fontsize=SMALL, color=INK)


def apart(values: Sequence[float], least: float) -> list[float]:
    """Return values moved upwards, as little as keeps them apart in their order."""
    moved, last = list(values), -np.inf
    for i in sorted(range(len(values)), key=values.__getitem__):
        moved[i] = last = max(values[i], last + least)
    return moved


if __name__ == "__main__":
    main()
