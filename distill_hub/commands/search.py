"""`distill-hub search`."""

import itertools
import json

from rich import box
from rich.table import Table
from rich.text import Text

from distill_hub.comparing.listing import Listed, list_sets
from distill_hub.config import options
from distill_hub.disk.files import atomic_write
from distill_hub.options.boards import FilterOptions, SearchConfig
from distill_hub.running.console import show
from distill_hub.text import printable, typed


def run(config: SearchConfig) -> None:
    """List distilled sets on the Hugging Face Hub, by the tags of their cards.

    Nothing is downloaded, so accuracies are not among what is listed; `distill-hub info` and `leaderboard` show them.

        distill-hub search
        distill-hub search cifar10 rded --ipc 10
        distill-hub search --source imagewoof --sort likes --limit 100 --json sets.json
    """
    found = list_sets(words=config.words, sort=config.sort, **options(config, FilterOptions))
    sets = list(itertools.islice(found, config.limit))
    more = next(found, None) is not None
    if config.json:
        atomic_write(config.json, json.dumps([own.as_json() for own in sets], indent=2).encode())
    if not sets:
        show("The Hub lists no distilled set that fits.\nNext: `distill-hub search` without words and filters lists all")
        return
    show(_table(sets))
    if more:
        show(f"There are more than these {config.limit}: --limit lists as many as it says.")
    place = typed(sets[0].repo_id)
    show(f"Next: `distill-hub info {place}` shows a set with its accuracies, `distill-hub leaderboard` compares them all")


def _table(sets: list[Listed]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False, collapse_padding=True)
    for title in ("set", "source", "IPC", "method", "records", "downloads", "likes", "updated"):
        words = title in ("set", "source", "method", "updated")
        table.add_column(title, overflow="fold", **({} if words else {"justify": "right", "no_wrap": True}))
    for own in sets:
        access = " (private)" if own.private else " (gated)" if own.gated else ""
        tagged = own.tagged.source, own.tagged.ipc, own.tagged.method
        cells = own.repo_id + access, *tagged, own.records, own.downloads, own.likes, f"{own.updated:%Y-%m-%d}"
        table.add_row(*(Text("-" if cell is None else printable(str(cell))) for cell in cells))
    return table
