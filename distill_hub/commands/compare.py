"""`distill-hub compare`."""

import json
import tempfile
from pathlib import Path

from distill_hub.config import InputError
from distill_hub.options.commands import CompareConfig
from distill_hub.publishing.compare import compare, explain, group_table, read_sets
from distill_hub.running.console import show
from distill_hub.running.files import atomic_write


def run(config: CompareConfig) -> None:
    """Compare distilled sets by their manifests and evaluation records: accuracy, gain over random images, size, cost.

    Nothing is trained and no image is downloaded, but for the previews of --html. Rows are grouped by what compares.

        distill-hub compare outputs/digits-ipc10-cao2 outputs/digits-ipc10-random
        distill-hub compare outputs/digits-ipc10-cao2 org/digits-ipc10-rded --html compare.html --json compare.json
    """
    for name, file in (("html", config.html), ("json", config.json)):
        if file:
            _check_writable(name, file)
    sets = read_sets(config.locations)
    groups = compare(sets)
    for group in groups:
        show(group_table(group))
    show(explain(sets, groups))
    if config.json:
        content = json.dumps([group.as_json() for group in groups], indent=2)
        atomic_write(config.json, content.encode())
    if config.html:
        from distill_hub.publishing.compare_page import render_page  # loads matplotlib

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
