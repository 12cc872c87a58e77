"""What the commands of `distill-hub` print of what they found."""

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from distill_hub.artifact.manifest import FITTED
from distill_hub.artifact.records import Comparison
from distill_hub.making.reproduce import Reproduction
from distill_hub.running.console import printable


def _plain(cell: str) -> Text:
    """Return text that is not read as markup, without the codes that move a terminal's cursor: a stranger wrote it."""
    return Text(printable(cell))


def comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Return claimed and measured accuracies side by side."""
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


def steps_table(found: Reproduction) -> Table:
    """Return what a set is made from and by, as on record and as rebuilt."""
    table = Table("made from, and by", "on record", "here", "", title=f"{found.recorded.name}: SHA-256")
    for step in found.steps:
        hashes = ((sha256 or "-")[:12] for sha256 in (step.recorded, step.rebuilt))
        table.add_row(*map(_plain, (step.name, *hashes, step.verdict)))
    return table


def environment_table(found: Reproduction) -> Table:
    """Return versions and hardware that are not as recorded."""
    title = "Not as recorded, and without effect" if found.identical else "Not as recorded, which may explain it"
    table = Table("", "on record", "here", title=title)
    for name, pair in found.environment.items():
        table.add_row(*map(_plain, (name, *pair)))
    return table


def findings(found: Reproduction) -> list[str]:
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
        )
    else:
        lines.append("Different: images or soft labels have another shape.")
    return lines
