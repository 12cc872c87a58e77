"""Look at distilled sets and score them again."""

import sys

from jsonargparse import auto_cli

from distill_hub.config import InputError


def show_info(path: str) -> None:
    """Print what a distilled set says of itself, without decoding its images.

    Args:
        path: Folder of the set.
    """
    from rich.table import Table

    from distill_hub.artifact.load import read_evaluations, read_manifest
    from distill_hub.run import show

    manifest = read_manifest(path)
    teacher, names = manifest.teacher, manifest.class_names
    facts = {
        "name": manifest.name,
        "method": f"{manifest.method.title} ({manifest.method.paper})",
        "source": f"{manifest.source.hub_id or manifest.source.name}, revision {manifest.source.revision or '-'}",
        "classes": f"{len(names)}: {', '.join(names[:10])}{', ...' * (len(names) > 10)}",
        "images": f"{manifest.ipc} per class, {manifest.image_size}x{manifest.image_size} pixels",
        "generator": manifest.generator.id if manifest.generator else "-",
        "teacher": f"{teacher.id} ({teacher.architecture}), {teacher.test_accuracy:.1%} on the test split"
        if teacher
        else "-",
        "licence": manifest.license or "not stated",
        "made": f"{manifest.created:%Y-%m-%d}, {manifest.environment.hardware}, seed {manifest.seed}",
        "content": manifest.content_sha256,
    }
    for record in read_evaluations(path, manifest):
        label = f"{record.protocol} v{record.protocol_version}, {record.student}"
        scores = {"this set": record.score, **record.baselines}
        facts[label] = "; ".join(f"{name} {score.percent()}" for name, score in scores.items()) + " (test accuracy in %)"
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        table.add_row(name, value)
    show(table)


def score_again(path: str, source: str | None = None) -> None:
    """Train students on a distilled set as its record says, and print claimed and measured accuracy.

    Args:
        path: Folder of the set.
        source: The real dataset, where it lies now; by default where the manifest says.
    """
    from rich.table import Table

    from distill_hub.evaluation.reevaluate import evaluate
    from distill_hub.run import show

    table = Table("protocol", "student", "seeds", "claimed", "measured", "difference", "agree", title="Test accuracy in %")
    for pair in evaluate(path, source=source):
        claimed, measured = pair.claimed, pair.measured
        table.add_row(
            f"{claimed.protocol} v{claimed.protocol_version}{'' if claimed.standard else ' (non-standard)'}",
            claimed.student,
            ", ".join(map(str, claimed.seeds)),
            claimed.score.percent(),
            measured.score.percent(),
            f"{100 * pair.difference:+.1f}",
            "yes" if pair.agrees else "NO",
        )
    show(table)


def main() -> None:
    """Entry point of the command `distill-hub`."""
    try:
        # No function here has the name of a lazy one in `distill_hub`: jsonargparse looks names up there, and would load it.
        auto_cli({"info": show_info, "evaluate": score_again}, prog="distill-hub", description=__doc__)
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)


if __name__ == "__main__":
    main()
