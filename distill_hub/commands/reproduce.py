"""`distill-hub reproduce`."""

import json
import sys

from distill_hub.options.commands import ReproduceConfig
from distill_hub.running.console import show
from distill_hub.running.files import atomic_write


def run(config: ReproduceConfig) -> None:
    """Rebuild a distilled set from its manifest, and say whether it is the same, or where it first differs and by how much.

    Its recipe is run again with the recorded settings, commits, processes and precision. Pixels, labels and soft labels are
    compared; no views are stored, and the scoring, which no recipe goes without, is the smallest there is. An interrupted
    command goes on where it stopped. The exit code is 0 when the set is identical, 1 when it differs, 2 when it cannot be
    tried.

        distill-hub reproduce outputs/digits-ipc10-cao2
        distill-hub reproduce org/digits-ipc10-cao2 --print_command
    """
    from distill_hub.making.reproduce import reproduce  # reads rows, for which `datasets` is loaded
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
