"""`distill-hub reproduce`."""

import json
import shlex
import sys
from typing import TYPE_CHECKING

from rich.table import Table
from rich.text import Text

from distill_hub.data.known import FITTED
from distill_hub.disk.files import atomic_write
from distill_hub.ending import tell
from distill_hub.options.commands import ReproduceConfig
from distill_hub.running.console import show
from distill_hub.text import printable

if TYPE_CHECKING:
    from distill_hub.launching.reproduce import Reproduction


def run(config: ReproduceConfig) -> None:
    """Rebuild a distilled set from its manifest, and say whether it is the same, or where it first differs and by how much.

    Its recipe is run again with the recorded settings, commits, processes and precision. Pixels, labels and soft labels are
    compared; no views are stored, and the scoring, which no recipe goes without, is the smallest there is. An interrupted
    command goes on where it stopped. A folder of a manifest without its images will do: then hashes alone are compared. The
    exit code is 0 when the set is identical, 1 when it differs, 2 when it cannot be tried.

        distill-hub reproduce outputs/digits-ipc10-cao2
        distill-hub reproduce org/digits-ipc10-cao2 --print_command
    """
    from distill_hub.launching.reproduce import default_folder, reproduce  # reads rows, for which `datasets` is loaded

    found = reproduce(config)
    if found is None:
        tell("Next: run that line, or leave --print_command out: then it is run here, and the sets are compared")
        return
    show(_steps_table(found))
    if found.environment:
        show(_environment_table(found))
    for line in _findings(found):
        show(line)
    folder = config.output_dir or default_folder(found.recorded)
    show(f"Next: `distill-hub compare {shlex.join([config.location, str(folder)])}` sets the two side by side")
    if config.json:
        atomic_write(config.json, json.dumps(found.summary(), indent=2).encode())
    if not found.identical:
        sys.exit(1)


def _plain(cell: str) -> Text:
    """Return text that is not read as markup, without the codes that move a terminal's cursor: a stranger wrote it."""
    return Text(printable(cell))


def _steps_table(found: "Reproduction") -> Table:
    """Return what a set is made from and by, as on record and as rebuilt."""
    table = Table("made from, and by", "on record", "here", "", title=f"{found.recorded.name}: SHA-256")
    for step in found.steps:
        hashes = ((sha256 or "-")[:12] for sha256 in (step.recorded, step.rebuilt))
        table.add_row(*map(_plain, (step.name, *hashes, step.verdict)))
    return table


def _environment_table(found: "Reproduction") -> Table:
    """Return versions and hardware that are not as recorded."""
    title = "Not as recorded, and without effect" if found.identical else "Not as recorded, which may explain it"
    table = Table("", "on record", "here", title=title)
    for name, pair in found.environment.items():
        table.add_row(*map(_plain, (name, *pair)))
    return table


def _findings(found: "Reproduction") -> list[str]:
    """Say what came of a rebuild, in sentences."""
    lines = []
    if found.new_options:
        taken = ", ".join(f"{name} {value}" for name, value in found.new_options.items())
        lines.append(f"Options the recipe did not have then, and what was taken for them: {taken}")
    if found.identical:
        return [*lines, f"Identical: {found.recorded.rows} images and their labels hash to {found.recorded.content_sha256}"]
    if first := found.first:
        lines.append(f"The first difference is in the {first.name}.")
        model = {"generator": found.recorded.generator, "teacher": found.recorded.teacher}.get(first.name)
        if model and model.id.startswith(FITTED):
            lines.append("It was fitted, and a fit is the same on the same kind of hardware, with the same versions, only.")
    elif all(step.verdict == "same" for step in found.steps):
        lines.append("No stage differs: the rows differ from what the last stage left.")
    else:
        lines.append("What is on record of the stages does not say where the first difference is.")
    if by := found.difference:
        how_far = f"by at most {by.largest} of 255, {by.mean:.4g} on average over all"
        lines.append(
            f"Different: {by.images} of {found.recorded.rows} images, their pixels {how_far}; {by.labels} labels; "
            f"soft labels by at most {by.soft_label:.4g}"
            + (f"; free pixels by at most {by.free_pixel:.4g}" if by.free_pixel is not None else "")
        )
    elif found.without_images:
        lines.append("Different: the images of this record are not here, so only hashes were compared.")
    else:
        lines.append("Different: images or soft labels have another shape.")
    return lines
