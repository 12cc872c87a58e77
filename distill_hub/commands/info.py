"""`distill-hub info`."""

from collections.abc import Mapping

from rich.table import Table
from rich.text import Text

from distill_hub.artifact.find import find, folder_bytes, read_description
from distill_hub.artifact.manifest import Manifest
from distill_hub.options.commands import InfoConfig
from distill_hub.running.console import printable, show, size_text


def run(config: InfoConfig) -> None:
    """Print what a distilled set says of itself. None of its images is downloaded or decoded.

    That is what, how, from what and by whom it was made, and what accuracy it is said to reach:

        distill-hub info outputs/digits-ipc10-cao2
        distill-hub info org/digits-ipc10-cao2 --revision v1
    """
    found = find(config.location, config.revision)
    manifest, evaluations = read_description(found)
    teacher, names, method = manifest.teacher, manifest.class_names, manifest.method
    size = folder_bytes(found.files, "data")
    known = teacher is not None and teacher.test_accuracy is not None
    accuracy = f", {teacher.test_accuracy:.1%} on the test split" if known else ""
    facts = {
        "name": manifest.name,
        "commit": found.remote.commit if found.remote else None,
        "method": method.title + (f" ({method.paper})" if method.paper else ""),
        "source": f"{manifest.source.hub_id or manifest.source.name}, revision {manifest.source.revision or '-'}",
        "classes": f"{len(names)}: {', '.join(names[:10])}{', ...' * (len(names) > 10)}",
        "images": f"{manifest.ipc_text} per class, {manifest.image_size}x{manifest.image_size} pixels, {size_text(size)}",
        "generator": manifest.generator.id if manifest.generator else "-",
        "teacher": f"{teacher.id} ({teacher.architecture}){accuracy}" if teacher else "-",
        "soft labels": f"the {manifest.soft_labels}'s" if manifest.soft_labels != "one-hot" else "one-hot",
        "views": _views_line(manifest, found.files),
        "licence": manifest.license or "not stated",
        "made": f"{manifest.created:%Y-%m-%d}"
        + (f", {manifest.environment.hardware}" if manifest.environment else " (brought into this format; made elsewhere)")
        + (f", seed {manifest.seed}" if manifest.seed is not None else ""),
        "content": manifest.content_sha256,
        "superseded by": manifest.superseded_by,
    }
    for record in evaluations:
        label = f"{record.protocol_label}, {record.student}"
        label += f", measured by {record.submitted_by}" if record.submitted_by else ""
        facts[label] = (
            "; ".join(f"{name} {score.percent()}" for name, score in record.scores.items()) + " (test accuracy in %)"
        )
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        if value is not None:
            table.add_row(name, Text(printable(value)))  # as text, not as markup: a stranger wrote it
    show(table)


def _views_line(manifest: Manifest, files: Mapping[str, int]) -> str | None:
    if manifest.views is None:
        return None
    size = size_text(folder_bytes(files, "views"))
    return f"{manifest.views.epochs} epochs, labelled by {manifest.views.teacher.id}, {size}"
