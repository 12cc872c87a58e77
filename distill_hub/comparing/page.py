"""The comparison as one HTML file that loads nothing: tables, previews and plots inside it, in light and dark."""

import base64
import hashlib
import io
import itertools
from collections.abc import Callable, Sequence
from typing import Any

import matplotlib
import PIL.Image
from matplotlib.axes import Axes
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from distill_hub.artifact.names import model_name, source_name
from distill_hub.comparing.compare import RANDOM, DescribedSet, Group, Row, pooled
from distill_hub.comparing.table import ACCURACY, EXPLANATIONS, WORDS, columns
from distill_hub.hub import page_of
from distill_hub.publishing.card import PICTURES, templates
from distill_hub.publishing.markdown import web_address
from distill_hub.publishing.plots import short
from distill_hub.running.console import size_text
from distill_hub.text import printable

PREVIEW = "assets/preview.png"
PREVIEW_BYTES = 20_000_000
PREVIEW_PIXELS = 25_000_000
PREVIEW_SIDE = 900  # pixels on the page, at most
# Text has a contrast of at least 4.5:1 with what it stands on, lines and marks of at least 3:1 (WCAG 2.2, 1.4.3 and 1.4.11).
THEMES = {
    "light": {
        "background": "#ffffff",
        "panel": "#f3f5f7",
        "text": "#1b1f24",
        "faint": "#57606a",
        "link": "#0b57d0",
        "line": "#858c95",
    },
    "dark": {
        "background": "#14171a",
        "panel": "#1f2428",
        "text": "#e6e9ec",
        "faint": "#a3abb4",
        "link": "#8ab4f8",
        "line": "#6d757e",
    },
}
SERIES = ("#2f7fc1", "#c0651a", "#2e8f66", "#a061c4", "#cc4f49", "#1f8a99", "#8f7443")  # on both backgrounds
MARKERS = "osD^vP"  # another number than of colours: a pair comes again after 42 series


def render_page(sets: Sequence[DescribedSet], groups: Sequence[Group]) -> str:
    """Write the comparison as one HTML page.

    Everything in it that a manifest, a record or a picture says was written by a stranger: text is escaped, pictures are
    decoded and encoded anew, addresses are checked, and the page's policy lets no script run but its own.

    Args:
        sets: The sets, in the order of the page.
        groups: See `compare.compare`.
    """
    environment = templates(autoescape=True)
    environment.filters |= {"sha256": _sha256, "printable": printable}
    tables = [columns(group) for group in groups]
    shown = dict.fromkeys(itertools.chain.from_iterable(tables))
    return environment.get_template("compare.html.jinja").render(
        sets=[_facts(own) for own in sets],
        groups=[
            {
                "title": group.title,
                "warnings": group.warnings,
                "notes": group.notes,
                "columns": list(table),
                "rows": [[cell(row) for cell in table.values()] for row in group.rows],
                "plot": _plot(group),
            }
            for group, table in zip(groups, tables, strict=True)
        ],
        explanations={title: text for title, text in EXPLANATIONS.items() if title in shown},
        sorted_by=ACCURACY,
        words=WORDS,
        without=[own.label for own in sets if not own.records],
        themes=THEMES,
    )


def _sha256(script: str) -> str:
    """Return a script's hash as a Content-Security-Policy names it."""
    return base64.b64encode(hashlib.sha256(str(script).encode()).digest()).decode()


def _facts(own: DescribedSet) -> dict[str, Any]:
    manifest, found = own.manifest, own.found
    picture, fault = _preview(own)
    return {
        "label": own.label,
        "page": page_of(found.remote.repo_id, found.remote.repo_type) if found.remote else None,
        "picture": picture,
        "fault": fault,
        "alt": f"{PICTURES[PREVIEW].format(source_name(manifest.source))}, by {manifest.method.title}",
        "title": manifest.method.title,
        "paper": web_address(manifest.method.paper),
        "superseded_by": manifest.superseded_by,
        "facts": {
            "source": source_name(manifest.source),
            "images": f"{manifest.ipc_text} for each of {len(manifest.classes)} classes, "
            f"{manifest.image_size} x {manifest.image_size} pixels, {size_text(own.data_bytes)}",
            "generator": model_name(manifest.generator) if manifest.generator else None,
            "teacher": model_name(manifest.teacher) if manifest.teacher else None,
            "licence": manifest.license or "not stated",
            "made on": manifest.environment.hardware if manifest.environment else None,
            "commit": found.remote.commit if found.remote else None,
            "content": manifest.content_sha256[:16],
        },
    }


def _preview(own: DescribedSet) -> tuple[dict[str, Any] | None, str]:
    """Return a set's picture as data URI with its size, or None and why."""
    size = own.found.files.get(PREVIEW)
    if size is None:
        return None, "The set has no preview."
    if size > PREVIEW_BYTES:
        return None, f"Its preview is not shown: it has {size:,} bytes."
    file = own.found.fetch([PREVIEW], most_bytes=PREVIEW_BYTES) / PREVIEW
    try:
        with PIL.Image.open(file, formats=["PNG"]) as image:
            if image.width * image.height > PREVIEW_PIXELS:
                return None, f"Its preview is not shown: it has {image.width} x {image.height} pixels."
            picture = image.convert("RGB")
    # Pillow raises SyntaxError for a broken PNG, ValueError for a chunk that unpacks to too much.
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        return None, f"Its preview cannot be shown ({error})."
    picture.thumbnail((PREVIEW_SIDE, PREVIEW_SIDE), PIL.Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return {"src": _data_uri("image/png", buffer.getvalue()), "width": picture.width, "height": picture.height}, ""


def _data_uri(kind: str, content: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _plot(group: Group) -> dict[str, str]:
    """Return a group's picture for each theme, and what it shows in words."""
    draw, height = (_by_size, 3.6) if len(group.sizes) > 1 else (_bars, 0.6 + 0.6 * len(group.rows))
    pictures = {theme: _svg(group, draw, height, colours) for theme, colours in THEMES.items()}
    rows = "; ".join(f"{_name(row)}, {row.set.manifest.ipc_text} images per class: {_percent(row)}" for row in group.rows)
    return {**pictures, "alt": f"Test accuracy after the last epoch in %, mean ± std. {rows}."}


def _percent(row: Row) -> str:
    beside = f" ({RANDOM} {row.random.percent()})" if row.random else ""
    return row.record.score.percent() + beside


def _name(row: Row) -> str:
    return row.set.label + (f", by {row.by}" if row.record.submitted_by else "")


def _svg(group: Group, draw: Callable[[Axes, Group, dict], None], height: float, colours: dict[str, str]) -> str:
    """Draw a group 5 inches wide, transparent, its text as outlines: the same on every machine."""
    style = {
        "svg.hashsalt": "compare",
        "text.parse_math": False,  # a dollar sign in a stranger's title
        "text.color": colours["text"],
        "axes.labelcolor": colours["text"],
        "axes.edgecolor": colours["line"],
        "xtick.color": colours["line"],
        "ytick.color": colours["line"],
        "xtick.labelcolor": colours["text"],
        "ytick.labelcolor": colours["text"],
        "font.family": "DejaVu Sans",
        "font.size": 10,
    }
    buffer = io.BytesIO()
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(5, height), layout="constrained")
        FigureCanvasSVG(figure)
        axes = figure.add_subplot()
        axes.spines[["top", "right"]].set_visible(False)
        draw(axes, group, colours)
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
    return _data_uri("image/svg+xml", buffer.getvalue())


def _bars(axes: Axes, group: Group, colours: dict[str, str]) -> None:
    """One bar per row with its standard deviation, below its name; random real images as a diamond on it."""
    error = {"capsize": 4, "ecolor": colours["text"], "color": SERIES[1], "linestyle": "none"}
    for y, row in enumerate(group.rows):
        own, random = row.record.score, row.random
        axes.barh(y, 100 * own.mean, height=0.36, color=SERIES[0])
        axes.errorbar(100 * own.mean, y, xerr=100 * own.std, **error)
        axes.text(0, y - 0.26, f"{short(printable(_name(row)), 40)}   {own.percent()}", va="bottom", ha="left")
        if random:
            axes.errorbar(100 * random.mean, y + 0.1, xerr=100 * random.std, marker="D", **error)
    axes.set_ylim(len(group.rows) - 0.6, -0.75)
    axes.set_xlim(0, 105)
    axes.set_yticks([])
    axes.spines["left"].set_visible(False)
    axes.set_xlabel(f"test accuracy after the last epoch, %; diamonds: {RANDOM}")


def _by_size(axes: Axes, group: Group, colours: dict[str, str]) -> None:
    """Accuracy over images per class: a line for each method and who measured it, and one for random real images."""

    def series(row: Row) -> str:
        return row.set.manifest.method.title + (f", by {row.by}" if row.record.submitted_by else "")

    def size(row: Row) -> int:
        return row.set.manifest.ipc

    looks = zip(itertools.cycle(SERIES), itertools.cycle(MARKERS), strict=False)
    for name, (colour, marker) in zip(dict.fromkeys(map(series, group.rows)), looks, strict=False):
        rows = sorted((row for row in group.rows if series(row) == name), key=size)
        scores = [row.record.score for row in rows]
        axes.errorbar(
            [size(row) for row in rows],
            [100 * score.mean for score in scores],
            yerr=[100 * score.std for score in scores],
            label=short(printable(name), 40),
            color=colour,
            marker=marker,
            capsize=4,
        )
    baselines = {ipc: [row.random for row in group.rows if size(row) == ipc and row.random] for ipc in group.sizes}
    if any(baselines.values()):
        points = {ipc: pooled(scores) for ipc, scores in baselines.items() if scores}
        means, deviations = ([100 * value for value in values] for values in zip(*points.values(), strict=True))
        axes.errorbar(
            list(points),
            means,
            yerr=deviations,
            label=f"{RANDOM} (baseline)",
            color=colours["faint"],
            linestyle="--",
            capsize=4,
        )
    axes.set_xscale("log")
    axes.set_xticks(group.sizes, list(map(str, group.sizes)))
    axes.minorticks_off()
    axes.set_xlabel("images per class")
    axes.set_ylabel("last test accuracy, %")
    axes.figure.legend(loc="outside lower left", ncols=2, frameon=False)
