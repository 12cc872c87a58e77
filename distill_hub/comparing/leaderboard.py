"""A leaderboard: sets that are named or found on the Hub, read side by side; those that cannot be read are left out."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from distill_hub.comparing.compare import DescribedSet, read_set, told_apart
from distill_hub.comparing.page import MOST_PREVIEWS, PREVIEW, PREVIEW_BYTES
from distill_hub.config import HubError, InputError
from distill_hub.disk.files import slug
from distill_hub.kinds import local_name
from distill_hub.running.console import progress

READERS = 8  # sets that are read at a time
MANY = 20  # sets, whose reading takes long enough to be told


@dataclass(frozen=True)
class LeftOut:
    """A set that is not on the leaderboard."""

    location: str
    why: str


def gather(
    locations: Sequence[str], *, is_public: bool, fits: Callable[[DescribedSet], bool]
) -> tuple[list[DescribedSet], list[LeftOut]]:
    """Read manifests, records and previews of sets, a few at a time.

    Args:
        locations: Ids on the Hub, or folders. One named twice is read once.
        is_public: Whether everybody will see what is read: private and gated sets are left out then.
        fits: Whether a set is wanted at all.

    Returns:
        The sets, in their order, and what was left out, because it is damaged, of a newer format, gated or private.

    Raises:
        InputError: For a folder that cannot be read.
    """

    def read(place: int, location: str) -> DescribedSet | LeftOut | None:
        try:
            own = read_set(location)
            remote = own.found.remote
            if not fits(own):
                return None
            if remote is None:
                return _without_its_place(own)
            if is_public and (remote.private or remote.gated):
                what = "private" if remote.private else "gated"
                return LeftOut(location, f"it is {what}, and a page for everybody must not show it; --private makes another")
            if place < MOST_PREVIEWS and own.found.files.get(PREVIEW, PREVIEW_BYTES + 1) <= PREVIEW_BYTES:
                own.found.fetch([PREVIEW])  # found damaged here, it does not stop the page
            return own
        except (InputError, HubError) as error:
            if os.path.exists(location):
                raise
            return LeftOut(location, str(error))

    names = list(dict.fromkeys(locations))
    pool = ThreadPoolExecutor(READERS)
    try:
        results = pool.map(read, range(len(names)), names)
        bar = progress(names, "read sets", unit="set", disable=len(names) < MANY)
        found = [result for _, result in zip(bar, results, strict=True)]
    finally:
        pool.shutdown(cancel_futures=True)  # after Ctrl-C, too, no further set is read
    sets = told_apart([one for one in found if isinstance(one, DescribedSet)])
    return sets, [one for one in found if isinstance(one, LeftOut)]


def _without_its_place(own: DescribedSet) -> DescribedSet:
    """Call a folder by its name alone: strangers will read it."""
    return dataclasses.replace(own, found=dataclasses.replace(own.found, location=local_name(own.found.location)))


def is_wanted(own: DescribedSet, *, source: str | None, method: str | None, ipc: int | None, author: str | None) -> bool:
    """Whether a set is of a source, by a method, of so many images per class and in a namespace, where they are named."""
    manifest, remote = own.manifest, own.found.remote
    return (
        (source is None or slug(source) == slug(manifest.source.name))
        and (method is None or method.lower() == manifest.method.name.lower())
        and (ipc is None or ipc == manifest.ipc)
        and (author is None or (remote is not None and remote.repo_id.split("/")[0] == author))
    )


def measured_by(sets: Sequence[DescribedSet], *, protocol: str | None, student: str | None) -> list[DescribedSet]:
    """Return the sets with what was measured by a protocol and on a student alone, where they are named."""
    if protocol is None and student is None:
        return list(sets)
    kept = [
        dataclasses.replace(
            own,
            records=tuple(
                record for record in own.records if protocol in (None, record.protocol) and student in (None, record.student)
            ),
        )
        for own in sets
    ]
    return [own for own in kept if own.records]
