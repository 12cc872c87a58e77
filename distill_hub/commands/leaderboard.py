"""`distill-hub leaderboard`."""

import json
import shlex
from functools import partial

from distill_hub.comparing.compare import compare
from distill_hub.comparing.listing import list_sets
from distill_hub.comparing.table import explain, group_table
from distill_hub.config import InputError, options, words
from distill_hub.disk.files import atomic_write
from distill_hub.ending import tell
from distill_hub.hub import page_of
from distill_hub.kinds import local_name
from distill_hub.options.boards import BoardOptions, FilterOptions, LeaderboardConfig
from distill_hub.running.console import show


def run(config: LeaderboardConfig) -> None:
    """Compare all distilled sets on the Hub, or those that are named, on one page, which --push_to_space publishes.

    Only manifests, evaluation records and previews are downloaded. Claims of authors and what others measured are told
    apart. The same command again takes up what has been added since, and changes nothing where nothing has changed.

        distill-hub leaderboard --source cifar10 --html cifar10.html
        distill-hub leaderboard --push_to_space org/distilled-datasets --collection
        distill-hub leaderboard outputs/* org/digits-ipc10-rded --student convnet-3 --html page.html --json rows.json
    """
    from distill_hub.comparing.leaderboard import gather, is_wanted, measured_by
    from distill_hub.comparing.page import render_page
    from distill_hub.comparing.space import LEADERBOARD, check_collection, collect, publish_page
    from distill_hub.publishing.destination import check_destination

    destination = None
    if config.push_to_space:
        name = "distilled-datasets"
        destination = check_destination(config.push_to_space, name, private=config.private, kind=LEADERBOARD)
        if config.collection:
            check_collection(destination, config.title)
    filters = options(config, FilterOptions)
    # In an order that does not change from day to day, as that of downloads would.
    locations = config.locations or sorted(own.repo_id for own in list_sets(**filters))
    sets, left_out = gather(
        locations, is_public=destination is not None and destination.is_open, fits=partial(is_wanted, **filters)
    )
    sets = measured_by(sets, protocol=config.protocol, student=config.student)
    for one in left_out:
        tell(f"left out: {one.location} ({one.why})")
    if not sets:
        raise InputError("distilled sets", None, "none that fits was found; `distill-hub search` lists those on the Hub")
    groups = compare(sets)
    for group in groups:
        show(group_table(group))
    show(explain(sets, groups))
    rows = json.dumps([group.as_json() for group in groups], indent=2)
    if config.json:
        atomic_write(config.json, rows.encode())
    if not (config.html or destination):
        show("Next: --html leaderboard.html writes this as a page, --push_to_space auto publishes it")
        return
    page = render_page(sets, groups, title=config.title)
    if config.html:
        atomic_write(config.html, page.encode())
        show(f"The page is in {config.html}\nNext: open it in a browser; it loads nothing from elsewhere")
    if destination:
        command = shlex.join(
            ["distill-hub", "leaderboard", *map(local_name, config.locations), *words(config, BoardOptions)]
        )
        space = publish_page(destination, config.title, sets, page=page, rows=rows, command=command)
        show(f"Published as {space}\nThe page is at {page_of(space.repo_id, 'space')}")
        if config.collection:
            show(f"Collected in {collect(space, config.title, sets).url}")
        show(space.next_step)
