"""`distill-hub info`."""

from collections.abc import Mapping

from distill_hub.artifact.find import find, folder_bytes, read_description, signed
from distill_hub.artifact.findings import warnings
from distill_hub.artifact.manifest import Manifest
from distill_hub.artifact.names import model_name, source_name
from distill_hub.options.commands import InfoConfig
from distill_hub.running.console import facts, loud, show, size_text
from distill_hub.text import printable, shortened, typed

SOFT_LABELS = {
    "teacher": "the teacher's",
    "author": "the author's",
    "learned": "learned with the images",
    "one-hot": "one-hot",
}


def run(config: InfoConfig) -> None:
    """Print what a distilled set says of itself. None of its images is downloaded or decoded.

    That is what, how, from what and by whom it was made, what accuracy it is said to reach, and how its method is cited:

        distill-hub info outputs/digits-ipc10-cao2
        distill-hub info org/digits-ipc10-cao2 --revision v1
    """
    found = find(config.location, config.revision)
    manifest, evaluations = read_description(found)
    teacher, selector, names, method = manifest.teacher, manifest.selector, manifest.class_names, manifest.method
    experts, rate = manifest.experts, method.notes.get("student_lr")
    size = folder_bytes(found.files, "data")
    known = teacher is not None and teacher.test_accuracy is not None
    accuracy = f", {teacher.test_accuracy:.1%} on the test split" if known else ""
    told = {
        "name": manifest.name,
        "commit": found.remote.commit if found.remote else None,
        "method": method.title + (f" ({method.paper})" if method.paper else ""),
        "source": f"{manifest.source.hub_id or source_name(manifest.source)}, revision {manifest.source.revision or '-'}",
        "classes": f"{len(names)}: {', '.join(names[:10])}{', ...' * (len(names) > 10)}",
        "images": f"{manifest.ipc_text} per class, {manifest.image_size}x{manifest.image_size} pixels, {size_text(size)}",
        "students see": _seen(manifest),
        "generator": model_name(manifest.generator) if manifest.generator else "-",
        "teacher": f"{model_name(teacher)} ({teacher.architecture}){accuracy}" if teacher else "-",
        "selector": f"{model_name(selector)}, among {selector.judged_over:,} classes" if selector else None,
        "experts": f"{experts.experts} of {model_name(experts)} ({experts.architecture})" if experts else None,
        "soft labels": SOFT_LABELS[manifest.soft_labels],
        "learning rate": f"{rate}, learned with the images" if rate else None,
        "views": _views_line(manifest, found.files),
        "licence": manifest.license or "not stated",
        "made": f"{manifest.created:%Y-%m-%d}"
        + (f", {manifest.environment.hardware}" if manifest.environment else " (brought into this format; made elsewhere)")
        + (f", seed {manifest.seed}" if manifest.seed is not None else ""),
        "content": manifest.content_sha256,
        "superseded by": manifest.superseded_by,
    }
    show(facts({name: shortened(printable(value), 1000) for name, value in told.items() if value is not None}))
    confirmed = signed(found, evaluations)
    for record in evaluations:
        by = f", {'' if record.file_name in confirmed else 'claimed to be '}measured by {record.submitted_by}"
        show(f"\n{record.protocol_label}, {record.student}{by if record.submitted_by else ''}: test accuracy in %")
        show(facts({f"  {shortened(printable(name), 60)}": score.percent() for name, score in record.scores.items()}))
    if lines := warnings(evaluations, manifest):
        show(loud(["", *lines]))
    if method.bibtex:
        lines = shortened(method.bibtex.strip(), 3000).splitlines()
        show("\n".join(["\nTo cite the method:", *map(printable, lines)]))
    show(f"\nNext: `distill-hub evaluate {typed(config.location)}` {'scores it again' if evaluations else 'scores it'}")


def _seen(manifest: Manifest) -> str | None:
    if manifest.tiles:
        return f"{manifest.tiles}x{manifest.tiles} tiles of each image, {manifest.images:,} images in all"
    if manifest.free_pixels:
        return "the column pixels, whitened (ZCA)" if manifest.free_pixels.zca else "the column pixels, which has no bounds"
    return None


def _views_line(manifest: Manifest, files: Mapping[str, int]) -> str | None:
    views = manifest.views
    if views is None:
        return None
    share = f"the first {views.batches(manifest.images):,} batches, {views.label_share} of " if views.is_pruned else ""
    logits = f", the {views.top_k} largest of {len(manifest.classes):,} logits" if views.top_k else ""
    size = size_text(folder_bytes(files, "views"))
    return f"{share}{views.epochs} epochs{logits}, labelled by {model_name(views.teacher)}, {size}"
