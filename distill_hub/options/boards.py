"""Settings of what looks at many sets on the Hub: `distill-hub search` and `leaderboard`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from distill_hub.config import InputError, argument, option
from distill_hub.disk.files import check_files
from distill_hub.kinds import Location, PositiveInt

Order = Literal["downloads", "likes", "updated", "created", "trending"]


@dataclass(frozen=True)
class FilterOptions:
    """Which sets."""

    source: str | None = option(
        None, "of this source: a known name (cifar10, imagewoof, ...) or the id of a Hub dataset", common=True
    )
    method: str | None = option(None, "by this method, as in the name of a set: cao2, rded, random, ...", common=True)
    ipc: PositiveInt | None = option(None, "of so many images per class", common=True)
    author: str | None = option(None, "of this user or organisation on the Hub", common=True)


@dataclass(frozen=True, kw_only=True)
class SearchConfig(FilterOptions):
    """The list."""

    words: list[str] = argument("words that the id or a tag of each must hold", ())
    sort: Order = option("downloads", "order, highest or latest first", common=True)
    limit: PositiveInt = option(30, "most sets that are listed", common=True)
    json: Path | None = option(None, "write the list to this file", common=True)

    def check_settings(self) -> None:
        """Refuse a file that cannot be written."""
        check_files(json=self.json)


@dataclass(frozen=True)
class BoardOptions(FilterOptions):
    """What is on the page."""

    protocol: str | None = option(None, "measurements by this protocol alone", common=True)
    student: str | None = option(None, "measurements with this student network alone", common=True)
    title: str = option("Distilled datasets", "title of page and collection", common=True)


@dataclass(frozen=True, kw_only=True)
class LeaderboardConfig(BoardOptions):
    """The page."""

    locations: list[Location] = argument("distilled sets: ids on the Hub, or folders; none: all that the Hub lists", ())
    html: Path | None = option(None, "write the page to this file", common=True)
    json: Path | None = option(None, "write the rows to this file, with unrounded numbers", common=True)
    push_to_space: str | None = option(
        None,
        "publish the page as NAMESPACE/NAME, a static Space on the Hub, and its rows beside it; auto: in your namespace",
        common=True,
    )
    private: bool = option(
        False, "make a new Space private; its page may show private and gated sets that you can read", common=True
    )
    collection: bool = option(
        False, "also collect the Space and the sets in a collection of that title, in the Space's namespace", common=True
    )

    def check_settings(self) -> None:
        """Refuse sets that do not exist, files that cannot be written, a Space that cannot be, and options without one."""
        from distill_hub.hub import check_location, check_target  # not above: --help needs no Hub

        for location in self.locations:
            check_location(location)
        check_files(html=self.html, json=self.json)
        if not 0 < len(self.title) < 60:
            raise InputError("title", self.title, "the Hub takes titles of 1 to 59 characters")
        if self.push_to_space:
            check_target(self.push_to_space)
        for name in ("private", "collection") if not self.push_to_space else ():
            if getattr(self, name):
                raise InputError(name, True, "it belongs to a Space; name one with --push_to_space, or leave it out")
