"""`distill-hub evaluate`."""

import json
import sys
from collections.abc import Sequence

from rich.table import Table

from distill_hub.artifact.find import Found, find, read_description
from distill_hub.artifact.findings import collapsed, warnings
from distill_hub.artifact.records import Comparison
from distill_hub.config import InputError, options, say_loading
from distill_hub.disk.files import atomic_write
from distill_hub.foreign.layout import check_layout
from distill_hub.options.commands import EvaluateConfig, ForeignOptions, RealOptions
from distill_hub.running.console import loud, show
from distill_hub.text import typed


def run(config: EvaluateConfig) -> None:
    """Train students on a distilled set as its record says, and print claimed and measured accuracy.

    A set that was made elsewhere needs --source, and --classes when its labels are mere numbers.

        distill-hub evaluate org/digits-ipc10-cao2 --check
        distill-hub evaluate outputs/digits-ipc10-cao2 --protocol idc-hard --students convnet-2,convnet-3 --repeats 5
    """
    found = find(config.location, config.revision)
    if config.submit and found.remote is None:
        valid = f"{config.location} is not on the Hub; `distill-hub push` publishes it with its records"
        raise InputError("command line", "--submit", valid)
    if found.is_artifact or config.submit:
        manifest, _ = read_description(found)
    else:
        check_layout(found, config.data_dir)
        if config.check:
            raise InputError("check", True, f"{config.location} was made elsewhere and claims nothing; leave the option out")
    if config.submit:
        from distill_hub.publishing.destination import check_destination
        from distill_hub.publishing.publish import submit

        destination = check_destination(config.location, manifest.name, create_pr=True)
    say_loading()
    from accelerate import PartialState

    from distill_hub.evaluation.jobs import Request
    from distill_hub.evaluation.reevaluate import evaluate

    def deliver(comparisons: list[Comparison]) -> None:
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
            _refuse_collapsed(comparisons, even_so=config.even_if_collapsed)
            publication = submit(destination, manifest, [pair.measured for pair in comparisons])
            show(f"Submitted to {publication}\n{publication.next_step}")
        else:
            show(_next_step(found))
        if config.save_students:
            show(f"The students are in {config.save_students}; `distill-hub push` publishes the folder of one")

    comparisons = evaluate(
        found,
        **options(config, Request),
        **options(config, RealOptions),
        **options(config, ForeignOptions),
        deliver=deliver,
    )
    PartialState().destroy_process_group()
    if config.check and any(pair.agrees is False for pair in comparisons):
        sys.exit(1)


def _refuse_collapsed(comparisons: Sequence[Comparison], *, even_so: bool) -> None:
    """Do not send scores of students that did not train unless that is meant; what was measured stays in the cache.

    Raises:
        InputError: Naming what collapsed.
    """
    found = [f"{pair.measured.student} on {name}" for pair in comparisons for name in collapsed(pair.measured)]
    if found and not even_so:
        valid = (
            f"students collapsed ({', '.join(found)}), see above; the same command with --even_if_collapsed sends the "
            "scores and trains nothing again"
        )
        raise InputError("submit", True, valid)


def _next_step(found: Found) -> str:
    place = typed(found.location)
    if not found.is_artifact:
        return f"Next: `distill-hub adopt {place} ...` brings the set into this format, with a record of such scores"
    if found.remote:
        return "Next: --submit proposes the measurement for the set's records, in a pull request"
    return f"Next: `distill-hub push {place}` publishes the set, --protocol and --students score it in other ways"


def _comparison_table(comparisons: Sequence[Comparison]) -> Table:
    """Return claimed and measured accuracies side by side."""
    columns = ("protocol", "student", "seeds", "claimed", "measured", "best of test", "difference", "agree")
    caption = loud(warnings([pair.measured for pair in comparisons]))
    table = Table(*columns, title="Test accuracy in %: last epoch, mean ± std", caption=caption, caption_justify="left")
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
