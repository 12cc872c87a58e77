"""The comparison as one HTML file that loads nothing: tables, plots and previews inside it, in light and dark."""

import base64
import hashlib
import io
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import PIL.Image

from distill_hub.artifact.findings import below_random
from distill_hub.artifact.names import model_name, set_title, source_name
from distill_hub.comparing.compare import Group, same_content
from distill_hub.comparing.plot import SERIES, SHAPES, WIDTH, plot
from distill_hub.comparing.rows import DescribedSet
from distill_hub.comparing.table import ACCURACY, WORDS, columns, explanations
from distill_hub.hub import page_of
from distill_hub.publishing.card import PICTURES, PREVIEW, templates
from distill_hub.publishing.markdown import web_address
from distill_hub.running.console import size_text
from distill_hub.text import printable

INTRODUCTION = (
    "Numbers compare within a table only: there, protocol and version, student, the teacher of the labels, source and test "
    "split are the same, and of these the ones at the same number of images per class. Each table begins with the highest."
)
SIZE = "IPC"
PREVIEW_BYTES = 20_000_000
PREVIEW_PIXELS = 25_000_000
MOST_PREVIEWS = 120
PREVIEW_SIDE = 420  # pixels on the page, at most
ALL_PREVIEWS = 1_200_000  # pixels of all of them: the more sets, the smaller; some 0.4 MB of the page
FILTERED = 10  # sets, from which on rows can be narrowed to some of them
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


def render_page(sets: Sequence[DescribedSet], groups: Sequence[Group], *, title: str | None = None) -> str:
    """Write the comparison as one HTML page.

    Everything in it that a manifest, a record or a picture says was written by a stranger: text is escaped, pictures are
    decoded and encoded anew, addresses are checked, and the page's policy lets no script run but its own.

    Args:
        sets: The sets, in the order of the page. Of many, the previews are small, and only the first have one. Where none
            has a preview, as where records alone are kept, nothing is said of it.
        groups: See `compare.compare`.
        title: Of the page; None counts the sets.
    """
    environment = templates(autoescape=True)
    environment.filters |= {"sha256": _sha256, "printable": printable}
    seen = [own.label for own in sets if PREVIEW in own.found.files][:MOST_PREVIEWS]
    unique = _ids()
    places = {own.label: unique(f"set-{own.label}") for own in sets}
    sources: dict[str, list[dict[str, Any]]] = {}
    for group in groups:
        sources.setdefault(group.source, []).append(_table(group, places, unique))
    return environment.get_template("compare.html.jinja").render(
        title=title or f"{len(sets)} distilled sets compared",
        introduction=INTRODUCTION,
        sources=[{"name": name, "id": unique(name), "groups": shown} for name, shown in sources.items()],
        sets=[_facts(own, places, sets, ALL_PREVIEWS / len(seen) if own.label in seen else None) for own in sets],
        has_previews=bool(seen),
        sizes=_sizes(sets) if len(sets) >= FILTERED else (),
        explanations={column: text for column, text in explanations(map(columns, groups)).items() if column != SIZE},
        sorted_by=ACCURACY,
        words=WORDS,
        without=[own.label for own in sets if not own.records],
        themes=THEMES,
        series=SERIES,
        shapes=SHAPES,
        width=WIDTH,
    )


def _ids() -> Callable[[str], str]:
    """Return a function that makes text what an element may be called by in an address, and never calls two the same."""
    taken: Counter[str] = Counter()

    def unique(text: str) -> str:
        name = re.sub("[^A-Za-z0-9._-]+", "-", text).strip("-")
        taken[name] += 1
        return name if taken[name] == 1 else f"{name}-{taken[name]}"

    return unique


def _table(group: Group, places: Mapping[str, str], unique: Callable[[str], str]) -> dict[str, Any]:
    """Return a group as the template shows it: a body of its table for each size, claims and measurements apart."""
    cells = {title: cell for title, cell in columns(group).items() if title != SIZE}  # which the bodies say
    kinds = {(row.set.manifest.ipc, row.size, row.record.submitted_by is not None) for row in group.rows}
    bodies = []
    for _, size, is_measured in sorted(kinds):
        rows = [row for row in group.rows if row.size == size and (row.record.submitted_by is not None) == is_measured]
        shown = [
            {
                "id": unique(row.id),
                "set": places[row.set.label],
                "method": printable(row.set.manifest.method.title),
                "cells": [cell(row) for cell in cells.values()],
            }
            for row in rows
        ]
        best = group.best_coresets.get(size)
        reached = best and printable(f"{best.whose}, {best.score.percent()}")
        bodies.append({"size": size, "is_measured": is_measured, "coreset": reached, "rows": shown})
    faults = {
        "students collapsed": any(row.collapsed for row in group.rows),
        "sets are below random real images": any(below_random(row.record) for row in group.rows),
    }
    return {
        "id": unique(f"{group.source}-{group.training}"),
        "title": group.title,
        "training": group.training,
        "warning": group.outside_the_literature,
        "failures": group.failures,
        "faults": [fault for fault, found in faults.items() if found],
        "notes": group.notes,
        "sizes": list(dict.fromkeys(body["size"] for body in bodies)),
        "columns": list(cells),
        "bodies": bodies,
        "plot": plot(group),
    }


def _sha256(script: str) -> str:
    """Return a script's hash as a Content-Security-Policy names it."""
    return base64.b64encode(hashlib.sha256(str(script).encode()).digest()).decode()


def _sizes(sets: Sequence[DescribedSet]) -> list[str]:
    """Return what there is of images per class, in words, the fewest first."""
    return [*dict.fromkeys(own.manifest.ipc_text for own in sorted(sets, key=lambda own: own.manifest.ipc))]


def _facts(own: DescribedSet, places: Mapping[str, str], sets: Sequence[DescribedSet], area: float | None) -> dict[str, Any]:
    manifest, found = own.manifest, own.found
    picture, fault = _preview(own, area)
    same = next((labels for labels in same_content(sets) if own.label in labels), [own.label])
    return {
        "id": places[own.label],
        "label": own.label,
        "page": page_of(found.remote.repo_id, found.remote.repo_type) if found.remote else None,
        "picture": picture,
        "fault": fault,
        "same": [(places[label], label) for label in same if label != own.label],
        "alt": f"{set_title(manifest)}: {PICTURES[PREVIEW]}",
        "title": manifest.method.title,
        "size": manifest.ipc_text,
        "paper": web_address(manifest.method.paper),
        "superseded_by": manifest.superseded_by,
        "facts": {
            "source": source_name(manifest.source),
            "images": f"{manifest.ipc_text} for each of {len(manifest.classes)} classes, "
            f"{manifest.image_size} x {manifest.image_size} pixels"
            + (f", {size_text(own.data_bytes)}" if own.data_bytes else "; not kept here"),
            "generator": model_name(manifest.generator) if manifest.generator else None,
            "teacher": model_name(manifest.teacher) if manifest.teacher else None,
            "licence": manifest.license or "not stated",
            "made on": manifest.environment.hardware if manifest.environment else None,
            "commit": found.remote.commit if found.remote else None,
            "content": manifest.content_sha256[:16],
        },
    }


def _preview(own: DescribedSet, area: float | None) -> tuple[dict[str, Any] | None, str]:
    """Return a set's picture of at most so many pixels as data URI with its size, or None and why."""
    size = own.found.files.get(PREVIEW)
    if size is None:
        return None, "The set has no preview."
    if area is None:
        return None, "Its preview is not shown: there are many sets."
    if size > PREVIEW_BYTES:
        return None, f"Its preview is not shown: it has {size:,} bytes."
    try:
        file = own.found.fetch([PREVIEW], most_bytes=PREVIEW_BYTES) / PREVIEW
        with PIL.Image.open(file, formats=["PNG"]) as image:
            if image.width * image.height > PREVIEW_PIXELS:
                return None, f"Its preview is not shown: it has {image.width} x {image.height} pixels."
            picture = image.convert("RGB")
    # An InputError is a ValueError. Pillow raises SyntaxError for a broken PNG, ValueError for a chunk that unpacks to too
    # much; what they say may name a folder of whoever makes the page.
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError):
        return None, "Its preview cannot be shown: it is damaged, or no PNG."
    scale = min(1, PREVIEW_SIDE / max(picture.size), (area / (picture.width * picture.height)) ** 0.5)
    picture = picture.resize([max(1, int(scale * side)) for side in picture.size], PIL.Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "WEBP", quality=60, method=4)
    source = f"data:image/webp;base64,{base64.b64encode(buffer.getvalue()).decode()}"
    return {"src": source, "width": picture.width, "height": picture.height}, ""
