"""Distilled sets on the Hub as its list of datasets has them: by the tags of their cards; no file is downloaded."""

import datetime
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from distill_hub.artifact.find import MANIFEST, record_names
from distill_hub.hub import API, check_token, plain_errors
from distill_hub.options.boards import Order
from distill_hub.publishing.tags import OURS, Tagged, ipc_tag, method_tag, read_tags, source_tag

_ORDERS = {"updated": "last_modified", "created": "created_at", "trending": "trending_score"}  # as the client calls them


@dataclass(frozen=True)
class Listed:
    """A set in the list."""

    repo_id: str
    tagged: Tagged
    records: int  # evaluation records, of whatever content
    downloads: int  # of the last 30 days
    likes: int
    updated: datetime.datetime
    private: bool
    gated: bool

    def as_json(self) -> dict[str, Any]:
        """Return the set, ready for JSON."""
        own = asdict(self)
        tagged = own.pop("tagged")
        return {"id": own.pop("repo_id"), **tagged, **own, "updated": self.updated.isoformat()}


def list_sets(
    *,
    words: Sequence[str] = (),
    source: str | None = None,
    method: str | None = None,
    ipc: int | None = None,
    author: str | None = None,
    sort: Order = "downloads",
) -> Iterator[Listed]:
    """Yield the sets on the Hub that the token may see; the next page is asked for when the last one is used up.

    Args:
        words: Each must be part of the id or of a tag, in any case.
        source: Known name or Hub id of the real dataset.
        method: Name of the method.
        ipc: Images per class.
        author: User or organisation.
        sort: By what, highest or latest first.

    Raises:
        InputError, HubError: See `hub.plain_errors`.
    """
    check_token()
    wanted = [OURS, source and source_tag(source), method and method_tag(method), ipc and ipc_tag(ipc)]
    with plain_errors("the list of datasets"):
        for info in API.list_datasets(
            filter=[tag for tag in wanted if tag],
            author=author,
            sort=_ORDERS.get(sort, sort),
            expand=["downloads", "gated", "lastModified", "likes", "private", "siblings", "tags"],
        ):
            names, tags = [file.rfilename for file in info.siblings or ()], info.tags or []
            text = " ".join([info.id, *tags]).lower()
            if MANIFEST in names and all(word.lower() in text for word in words):
                yield Listed(
                    info.id,
                    read_tags(tags),
                    len(record_names(names)),
                    info.downloads or 0,
                    info.likes or 0,
                    info.last_modified,
                    bool(info.private),
                    bool(info.gated),
                )
