"""Make distilled sets, publish them, look at them, compare them, and score them again.

commands:
  make       make a set with one of the recipes, in one process or several
  info       what a set says of itself, without downloading its images
  compare    sets side by side, by what is on record: accuracy, size, cost
  evaluate   train students on a set, and compare with what its author claims
  reproduce  rebuild a set from its manifest, and say whether it is the same, or where it first differs
  relabel    store augmented views of a set with a teacher's logits, for training without the teacher
  push       publish a set, or a tuned generator, on the Hugging Face Hub
  adopt      bring a set that was made elsewhere into the artifact format

`distill-hub COMMAND --help` has examples and options. A distilled set is named by its folder or by its id on the Hub.

exit codes, also of the recipes:
  0    done; with `evaluate --check`, the scores agree; with `reproduce`, the set is identical
  1    they do not, the Hub or the network failed, or something failed that should not
  2    what was asked for cannot be done; one line says why
  130  interrupted by Ctrl-C; the same command goes on
"""

import json
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from distill_hub.config import InputError, launch, nearest, options
from distill_hub.making.launcher import make_command
from distill_hub.options.commands import (
    AdoptConfig,
    CompareConfig,
    EvaluateConfig,
    ForeignOptions,
    InfoConfig,
    PushConfig,
    RealOptions,
    RelabelConfig,
    ReproduceConfig,
)
from distill_hub.options.shared import StudentOptions


def show_info(config: InfoConfig) -> None:
    """Print what a distilled set says of itself. None of its images is downloaded or decoded.

    That is what, how, from what and by whom it was made, and what accuracy it is said to reach:

        distill-hub info outputs/digits-ipc10-cao2
        distill-hub info org/digits-ipc10-cao2 --revision v1
    """
    from rich.table import Table
    from rich.text import Text

    from distill_hub.artifact.load import find, folder_bytes, read_description
    from distill_hub.running.console import printable, show, size_text

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
    table = Table(show_header=False, box=None)
    for name, value in facts.items():
        if value is not None:
            table.add_row(name, Text(printable(value)))  # as text, not as markup: a stranger wrote it
    show(table)


def _views_line(manifest, files: Mapping[str, int]) -> str | None:
    from distill_hub.artifact.load import folder_bytes
    from distill_hub.running.console import size_text

    if manifest.views is None:
        return None
    size = size_text(folder_bytes(files, "views"))
    return f"{manifest.views.epochs} epochs, labelled by {manifest.views.teacher.id}, {size}"


def compare_sets(config: CompareConfig) -> None:
    """Compare distilled sets by their manifests and evaluation records: accuracy, gain over random images, size, cost.

    Nothing is trained and no image is downloaded, but for the previews of --html. Rows are grouped by what compares.

        distill-hub compare outputs/digits-ipc10-cao2 outputs/digits-ipc10-random
        distill-hub compare outputs/digits-ipc10-cao2 org/digits-ipc10-rded --html compare.html --json compare.json
    """
    for name, file in (("html", config.html), ("json", config.json)):
        if file:
            _check_writable(name, file)
    from distill_hub.publishing.compare import compare, explain, group_table, read_sets
    from distill_hub.running.console import show
    from distill_hub.running.files import atomic_write

    sets = read_sets(config.locations)
    groups = compare(sets)
    for group in groups:
        show(group_table(group))
    show(explain(sets, groups))
    if config.json:
        content = json.dumps([group.as_json() for group in groups], indent=2)
        atomic_write(config.json, content.encode())
    if config.html:
        from distill_hub.publishing.compare_page import render_page

        atomic_write(config.html, render_page(sets, groups).encode())
        show(f"The page is in {config.html}")


def _check_writable(name: str, file: Path) -> None:
    """Refuse a file that cannot be written, before work is done."""
    if file.is_dir():
        raise InputError(name, str(file), "it is a folder; name a file in it")
    place = next(parent for parent in file.absolute().parents if parent.exists())
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        valid = f"nothing can be written in {place} ({error.strerror}); name a file in another folder"
        raise InputError(name, str(file), valid) from error


def score_again(config: EvaluateConfig) -> None:
    """Train students on a distilled set as its record says, and print claimed and measured accuracy.

    A set that was made elsewhere needs --source and --protocol, and --classes when its labels are mere numbers.

        distill-hub evaluate org/digits-ipc10-cao2 --check
        distill-hub evaluate outputs/digits-ipc10-cao2 --protocol idc-hard --students convnet-2,convnet-3 --repeats 5
    """
    from accelerate import PartialState

    from distill_hub.artifact.load import find, read_description
    from distill_hub.evaluation.reevaluate import evaluate
    from distill_hub.publishing.destination import check_destination
    from distill_hub.publishing.publish import submit
    from distill_hub.running.console import show
    from distill_hub.running.files import atomic_write
    from distill_hub.tables import comparison_table

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
        show(comparison_table(comparisons))
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
    if config.check and any(pair.claimed is None for pair in comparisons):
        raise InputError("check", True, "the set claims nothing for this protocol and student")
    if config.check and any(pair.agrees is False for pair in comparisons):
        sys.exit(1)


def reproduce_set(config: ReproduceConfig) -> None:
    """Rebuild a distilled set from its manifest, and say whether it is the same, or where it first differs and by how much.

    Its recipe is run again with the recorded settings, commits, processes and precision. Pixels, labels and soft labels are
    compared; no views are stored, and the scoring, which no recipe goes without, is the smallest there is. An interrupted
    command goes on where it stopped. The exit code is 0 when the set is identical, 1 when it differs, 2 when it cannot be
    tried.

        distill-hub reproduce outputs/digits-ipc10-cao2
        distill-hub reproduce org/digits-ipc10-cao2 --print_command
    """
    from distill_hub.making.reproduce import reproduce
    from distill_hub.running.console import show
    from distill_hub.running.files import atomic_write
    from distill_hub.tables import environment_table, findings, steps_table

    found = reproduce(config)
    if found is None:
        return
    show(steps_table(found))
    if found.environment:
        show(environment_table(found))
    for line in findings(found):
        print(line)
    if config.json:
        atomic_write(config.json, json.dumps(found.summary(), indent=2).encode())
    if not found.identical:
        sys.exit(1)


def relabel_set(config: RelabelConfig) -> None:
    """Let a teacher label augmented views of every image of a set, and store them beside it.

    Students of the protocol fkd are trained on them without the teacher, everyone on the same. An interrupted command goes
    on where it stopped; several processes: recipes/relabel.py.

        distill-hub relabel outputs/digits-ipc10-cao2 --epochs 300
    """
    from accelerate import PartialState

    from distill_hub.making.relabel import relabel

    relabel(config)
    PartialState().destroy_process_group()


def push(config: PushConfig) -> None:
    """Publish a distilled set, or a generator that distill-hub tuned, on the Hub, in one commit.

    Every pixel and label of a set is checked first; a generator is loaded, and becomes a model on the Hub. In a repository
    that is there already, what people wrote in the card and the records that others added stay. Log in with `hf auth login`
    first; the token needs write access to the namespace.

        distill-hub push outputs/digits-ipc10-cao2
        distill-hub push outputs/digits-ipc10-cao2 org/digits-ipc10-cao2 --private --tag v1
    """
    if Path(config.path, "model_index.json").is_file():
        from distill_hub.publishing.generator import push_generator as publish
    else:
        from distill_hub.publishing.publish import push as publish
    from distill_hub.running.console import show

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

        distill-hub adopt path/to/set.pt --source cifar10 --method dm --classes source --teacher auto
    """
    from distill_hub.making.adopt import adopt

    adopt(config)


COMMANDS = {
    "info": (show_info, InfoConfig),
    "compare": (compare_sets, CompareConfig),
    "evaluate": (score_again, EvaluateConfig),
    "reproduce": (reproduce_set, ReproduceConfig),
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
    if name == "make":
        make_command(words)
        return
    if name not in COMMANDS:
        known = ["make", *COMMANDS]
        error = InputError("command", name, f"known: {', '.join(known)}{nearest(name, known)}")
        print(f"error: {error}", file=sys.stderr)
        sys.exit(2)
    function, config_class = COMMANDS[name]
    launch(function, config_class, function.__doc__, words, f"distill-hub {name}")


if __name__ == "__main__":
    main()
