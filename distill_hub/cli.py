"""Publish distilled sets, look at them, and score them again.

commands:
  info      what a set says of itself, without downloading its images
  evaluate  train students on a set, and compare with what its author claims
  relabel   store augmented views of a set with a teacher's logits, for training without the teacher
  push      publish a set, or a tuned generator, on the Hugging Face Hub
  adopt     bring a set that was made elsewhere into the artifact format

`distill-hub COMMAND --help` lists the options of each. A distilled set is named by its folder or by its id on the Hub.
"""

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from distill_hub.command_options import (
    AdoptConfig,
    EvaluateConfig,
    ForeignOptions,
    InfoConfig,
    PushConfig,
    RealOptions,
    RelabelConfig,
)
from distill_hub.config import InputError, launch, nearest, options
from distill_hub.options import StudentOptions


def show_info(config: InfoConfig) -> None:
    """Print what a distilled set says of itself, without downloading or decoding its images."""
    from distill_hub.artifact.card import size_text
    from distill_hub.artifact.load import find, read_description

    found = find(config.location, config.revision)
    manifest, evaluations = read_description(found)
    teacher, names, method = manifest.teacher, manifest.class_names, manifest.method
    size = sum(size for name, size in found.files.items() if name.startswith("data/"))
    known = teacher is not None and teacher.test_accuracy is not None
    accuracy = f", {teacher.test_accuracy:.1%} on the test split" if known else ""
    facts = {
        "name": manifest.name,
        "commit": found.remote.commit if found.remote else None,
        "method": method.title + (f" ({method.paper})" if method.paper else ""),
        "source": f"{manifest.source.hub_id or manifest.source.name}, revision {manifest.source.revision or '-'}",
        "classes": f"{len(names)}: {', '.join(names[:10])}{', ...' * (len(names) > 10)}",
        "images": f"{manifest.ipc} per class, {manifest.image_size}x{manifest.image_size} pixels, {size_text(size)}",
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
    _show_facts({name: value for name, value in facts.items() if value is not None})


def _views_line(manifest, files: Mapping[str, int]) -> str | None:
    from distill_hub.artifact.card import size_text

    if manifest.views is None:
        return None
    size = size_text(sum(size for name, size in files.items() if name.startswith("views/")))
    return f"{manifest.views.epochs} epochs, labelled by {manifest.views.teacher.id}, {size}"


def _show_facts(facts: Mapping[str, str]) -> None:
    from rich.table import Table
    from rich.text import Text

    from distill_hub.run import show

    table = Table(show_header=False, box=None)
    for row in facts.items():
        # As text, not as markup, and without the codes that move a terminal's cursor: a stranger wrote it.
        table.add_row(*(Text("".join(c if c.isprintable() else "?" for c in cell)) for cell in row))
    show(table)


def score_again(config: EvaluateConfig) -> None:
    """Train students on a distilled set as its record says, and print claimed and measured accuracy.

    A set that was made elsewhere needs --source and --protocol, and --classes when its labels are mere numbers.
    """
    from accelerate import PartialState

    from distill_hub.artifact.destination import check_destination
    from distill_hub.artifact.load import find, read_description
    from distill_hub.artifact.publish import submit
    from distill_hub.evaluation.reevaluate import evaluate
    from distill_hub.run import atomic_write, show

    if config.submit:
        found = find(config.location, config.revision)
        if found.remote is None:
            raise InputError(
                "submit", True, f"{config.location} is not on the Hub; `distill-hub push` publishes it with its records"
            )
        manifest, _ = read_description(found)
        destination = check_destination(config.location, manifest.name, create_pr=True)
    comparisons = evaluate(
        config.location,
        revision=config.revision,
        protocol=config.protocol,
        students=config.students,
        repeats=config.repeats,
        teacher=config.teacher,
        teacher_revision=config.teacher_revision,
        dd_ranking=config.dd_ranking,
        real_accuracy=config.real_accuracy,
        mmd=config.mmd,
        dry_run=config.dry_run,
        **options(config, StudentOptions),
        **options(config, RealOptions),
        **options(config, ForeignOptions),
    )
    processes = PartialState()
    if processes.is_main_process and not config.dry_run:
        show(_comparison_table(comparisons))
        if config.json:
            records = [
                {
                    "claimed": pair.claimed.model_dump(mode="json") if pair.claimed else None,
                    "measured": pair.measured.model_dump(mode="json"),
                    "difference": pair.difference,
                    "agrees": pair.agrees,
                }
                for pair in comparisons
            ]
            atomic_write(config.json, json.dumps(records, indent=2).encode())
        if config.submit:
            show(f"Submitted to {submit(destination, manifest, [pair.measured for pair in comparisons])}")
    processes.destroy_process_group()
    if config.dry_run:
        return
    if config.check and any(pair.claimed is None for pair in comparisons):
        raise InputError("check", True, "the set claims nothing for this protocol and student")
    if config.check and any(pair.agrees is False for pair in comparisons):
        sys.exit(1)


def _comparison_table(comparisons) -> Any:
    from rich.table import Table

    columns = ("protocol", "student", "seeds", "claimed", "measured", "best of test", "difference", "agree")
    table = Table(*columns, title="Test accuracy in %: last epoch, mean ± std")
    for pair in comparisons:
        record = pair.measured
        common = record.protocol_label, record.student, ", ".join(map(str, record.seeds))
        own = record.score.percent(), f"{100 * record.score.best_mean:.1f}"
        if pair.claimed:
            verdict = f"{100 * pair.difference:+.1f}", "yes" if pair.agrees else "NO"
            table.add_row(*common, pair.claimed.score.percent(), *own, *verdict)
        else:
            table.add_row(*common, "-", *own, "-", "-")
        for name, score in record.baselines.items():
            table.add_row("", name, "", "", score.percent(), f"{100 * score.best_mean:.1f}", "", "")
        if record.dd_ranking:
            table.add_row("", "DD-Ranking: LRS, ARS", "", "", f"{record.dd_ranking.lrs:.3f}, {record.dd_ranking.ars:.3f}")
        if record.mmd is not None:
            table.add_row("", "squared MMD to real images", "", "", f"{record.mmd:.4f}")
    return table


def relabel_set(config: RelabelConfig) -> None:
    """Let a teacher label augmented views of every image of a set, and store them beside it.

    Students of the protocol fkd are trained on them without the teacher, everyone on the same. An interrupted command goes
    on where it stopped; several processes: recipes/relabel.py.
    """
    from accelerate import PartialState

    from distill_hub.evaluation.relabel import relabel

    relabel(config)
    PartialState().destroy_process_group()


def push(config: PushConfig) -> None:
    """Publish a distilled set, or a generator that distill-hub tuned, on the Hub, in one commit.

    Every pixel and label of a set is checked first; a generator is loaded, and becomes a model on the Hub. In a repository
    that is there already, what people wrote in the card and the records that others added stay. Log in with `hf auth login`
    first; the token needs write access to the namespace.
    """
    if Path(config.path, "model_index.json").is_file():
        from distill_hub.artifact.generator import push_generator as publish
    else:
        from distill_hub.artifact.publish import push as publish
    from distill_hub.run import show

    publication = publish(
        config.path,
        config.repository,
        private=config.private,
        revision=config.revision,
        create_pr=config.create_pr,
        tag=config.tag,
    )
    show(f"Published as {publication}")


def adopt_set(config: AdoptConfig) -> None:
    """Bring a distilled set that was made elsewhere into the artifact format: images, or tensors as authors keep them.

    The manifest says that the set is external, and claims nothing that is not known. Classes are matched by name; labels
    that are mere numbers need --classes.
    """
    from distill_hub.evaluation.adopt import adopt

    adopt(config)


COMMANDS = {
    "info": (show_info, InfoConfig),
    "evaluate": (score_again, EvaluateConfig),
    "relabel": (relabel_set, RelabelConfig),
    "push": (push, PushConfig),
    "adopt": (adopt_set, AdoptConfig),
}


def main() -> None:
    """Entry point of the command `distill-hub`."""
    name, *words = sys.argv[1:] or ["--help"]
    if name in ("-h", "--help"):
        print(f"usage: distill-hub COMMAND ...\n\n{__doc__}")
        return
    if name not in COMMANDS:
        error = InputError("command", name, f"known: {', '.join(COMMANDS)}{nearest(name, list(COMMANDS))}")
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    function, config_class = COMMANDS[name]
    launch(function, config_class, function.__doc__, words, f"distill-hub {name}")


if __name__ == "__main__":
    main()
