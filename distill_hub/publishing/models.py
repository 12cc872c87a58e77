"""What is published as a model on the Hub has this in common: its files, and a card in which people's words stay."""

from collections.abc import Callable
from pathlib import Path

from distill_hub.hub import RemoteSet, fetch
from distill_hub.publishing.destination import Content, Destination, Publication, commit
from distill_hub.publishing.readme import CARD_BYTES, GENERATED, README, card_files, card_of


def publish_model(
    folder: Path,
    destination: Destination,
    name: str,
    content: Content,
    *,
    card: Callable[[str], str],
    local_card: tuple[str, str],
    is_own: Callable[[str], object],
) -> Publication:
    """Publish a folder as a model, in one commit.

    Args:
        folder: Of the model.
        destination: As `check_destination` allowed it.
        name: Of what is published, for the commit's message.
        content: Its files, but for the card.
        card: From the id of the repository to the card.
        local_card: Card of the folder, and the card as it was generated there; see `readme.card_of`.
        is_own: Whether a file of the repository is of what was published there before; those that `content` lacks go.

    Raises:
        InputError, HubError: See `destination.commit`.
    """

    def stage(remote: RemoteSet) -> tuple[Content, set[str]]:
        there = fetch(remote, {README, GENERATED} & remote.files.keys(), most_bytes=CARD_BYTES)
        files = card_files(card(remote.repo_id), [local_card, card_of(there)])
        return {**content, **files}, set(filter(is_own, remote.files)) - content.keys()

    again = f"to go on: distill-hub push {folder} {destination.repo_id}"
    return commit(destination, stage, f"Publish {name}", again)
