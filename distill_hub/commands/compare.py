"""`distill-hub compare`."""

import json

from distill_hub.comparing.compare import compare, read_sets
from distill_hub.comparing.table import explain, group_table
from distill_hub.disk.files import atomic_write
from distill_hub.options.commands import CompareConfig
from distill_hub.running.console import show


def run(config: CompareConfig) -> None:
    """Compare distilled sets by their manifests and evaluation records: accuracy, gain over random images, size, cost.

    Nothing is trained and no image is downloaded, but for the previews of --html. Rows are grouped by what compares.

        distill-hub compare outputs/digits-ipc10-cao2 outputs/digits-ipc10-random
        distill-hub compare outputs/digits-ipc10-cao2 org/digits-ipc10-rded --html compare.html --json compare.json
    """
    sets = read_sets(config.locations)
    groups = compare(sets)
    for group in groups:
        show(group_table(group))
    show(explain(sets, groups))
    if config.json:
        content = json.dumps([group.as_json() for group in groups], indent=2)
        atomic_write(config.json, content.encode())
    if config.html:
        from distill_hub.comparing.page import render_page  # loads Pillow and jinja

        atomic_write(config.html, render_page(sets, groups).encode())
        show(f"The page is in {config.html}\nNext: open it in a browser; it loads nothing from elsewhere")
    else:
        show("Next: --html compare.html writes this as a page, with previews and plots")
