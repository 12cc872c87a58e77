"""A leaderboard on the Hub: a static Space, and a collection of the Space and the sets."""

from collections.abc import Sequence

from huggingface_hub import Collection, SpaceCard, SpaceCardData

from distill_hub.artifact.names import set_title
from distill_hub.comparing.compare import DescribedSet
from distill_hub.config import InputError
from distill_hub.hub import API, RemoteSet, fetch, plain_errors, retried
from distill_hub.publishing.card import fill_template
from distill_hub.publishing.destination import Content, Destination, Kind, Publication, commit
from distill_hub.publishing.readme import CARD_BYTES, GENERATED, README, card_files, card_of
from distill_hub.publishing.tags import GENERAL
from distill_hub.text import printable, shortened

PAGE = "index.html"
ROWS = "leaderboard.json"
STYLE = "style.css"  # of the page that a new Space comes with
LEADERBOARD = Kind(
    *("space", "leaderboard", ROWS, None),
    "the same command again takes up new sets and measurements",
    frozenset({PAGE, STYLE}),
)
DESCRIPTION = "Distilled datasets and the page that compares them, by their records"
SIGNATURE = " (noted by distill-hub)"  # ends the notes that may be written anew


def space_card(title: str, sets: Sequence[DescribedSet], command: str) -> str:
    """Write the README.md of the Space: what a static Space needs, and how one gets onto the page."""
    data = SpaceCardData(
        title=title,
        emoji="\N{BAR CHART}",
        sdk="static",
        app_file=PAGE,
        pinned=False,
        tags=["leaderboard", *GENERAL],
        datasets=[own.found.remote.repo_id for own in sets if own.found.remote],
    )
    text = fill_template("space_card.md.jinja", yaml=data.to_yaml(), title=title, command=command, rows=ROWS)
    return str(SpaceCard(text))  # which refuses broken YAML


def publish_page(
    destination: Destination, title: str, sets: Sequence[DescribedSet], *, page: str, rows: str, command: str
) -> Publication:
    """Publish a page and its rows in one commit; none, where nothing has changed. What people wrote in the card stays.

    Args:
        destination: As `check_destination` allowed it.
        title: Of the Space.
        sets: What is on the page.
        page: HTML.
        rows: JSON.
        command: What to type to make the page again, without its destination.

    Raises:
        InputError, HubError: See `destination.commit`.
    """

    def stage(remote: RemoteSet) -> tuple[Content, set[str]]:
        there = fetch(remote, {README, GENERATED} & remote.files.keys(), most_bytes=CARD_BYTES)
        card = card_files(space_card(title, sets, f"{command} --push_to_space {remote.repo_id}"), [card_of(there)])
        return {**card, PAGE: page.encode(), ROWS: rows.encode()}, set() if ROWS in remote.files else {STYLE}

    return commit(destination, stage, f"Publish {title}", "run the same command again")


def check_collection(destination: Destination, title: str) -> None:
    """Refuse a collection that would tell everybody of sets on a page that is not for everybody.

    Raises:
        InputError: When there is a public one of that title; and see `hub.plain_errors`.
        HubError: See there.
    """
    with plain_errors(destination.repo_id, repo_type="space"):
        there = _find(destination.repo_id, title)
    if there and not (there.private or destination.is_open):
        valid = f"the collection of that title, {there.slug}, is public, and the Space is not; name another"
        raise InputError("title", title, valid)


def collect(space: Publication, title: str, sets: Sequence[DescribedSet]) -> Collection:
    """Bring the collection of a title, in the Space's namespace, up to date: the Space, and the sets on the Hub.

    Its own notes are written anew, and what it once added and is gone from the page is removed. Items and notes by people
    stay as they are.

    Raises:
        InputError, HubError: See `hub.plain_errors`.
    """
    wanted = {("space", space.repo_id): f"The page that compares them{SIGNATURE}"}
    wanted |= {("dataset", own.found.remote.repo_id): _note(own) for own in sets if own.found.remote}
    with plain_errors(space.repo_id, repo_type="space", after="run the same command again"):
        collection = _find(space.repo_id, title) or _create(space, title)
        there = {(item.item_type, item.item_id): item for item in collection.items}
        for (kind, name), note in wanted.items():
            item = there.get((kind, name))
            if item is None:
                retried(API.add_collection_item)(collection.slug, name, kind, note=note, exists_ok=True)
            elif (item.note or "").endswith(SIGNATURE) and item.note != note:
                retried(API.update_collection_item)(collection.slug, item.item_object_id, note=note)
        for key, item in there.items():
            if key not in wanted and (item.note or "").endswith(SIGNATURE):
                retried(API.delete_collection_item)(collection.slug, item.item_object_id, missing_ok=True)
    return collection


@retried
def _find(repo_id: str, title: str) -> Collection | None:
    for own in API.list_collections(owner=repo_id.split("/")[0]):  # which shows the first items of each alone
        if own.title == title:
            return API.get_collection(own.slug)
    return None


@retried
def _create(space: Publication, title: str) -> Collection:
    namespace = space.repo_id.split("/")[0]
    return API.create_collection(title, namespace=namespace, description=DESCRIPTION, private=space.private, exists_ok=True)


def _note(own: DescribedSet) -> str:
    """Say what a set is, and its author's best accuracy by a protocol of the literature, else by any."""
    said = set_title(own.manifest)
    claims = [record for record in own.records if record.submitted_by is None]
    if claims:
        best = max(claims, key=lambda record: (record.standard, record.score.mean))
        said += f": {best.score.percent()} %, {best.protocol_label}, {best.student}"
    return shortened(printable(said), 500 - len(SIGNATURE)) + SIGNATURE
