"""A three-way merge of lines: what two sides made of a common base, region by region.

The algorithm is diff3 (Khanna, Kunal and Pierce, "A formal investigation of diff3", 2007): the lines of the base that both
sides kept divide the three texts into regions. What lies in between is settled where at most one side changed it, or both
alike.
"""

import difflib
from collections.abc import Iterator, Sequence
from typing import NamedTuple


class Region(NamedTuple):
    """Some lines of the base, and what stands in their place on either side; any of the three may be empty."""

    base: Sequence[str]
    ours: Sequence[str]
    theirs: Sequence[str]

    @property
    def settled(self) -> Sequence[str] | None:
        """Lines of the merge; None for a conflict, where both sides changed the base, each in its own way."""
        if self.base == self.theirs or self.ours == self.theirs:
            return self.ours
        return self.theirs if self.base == self.ours else None


def regions(base: Sequence[str], ours: Sequence[str], theirs: Sequence[str]) -> Iterator[Region]:
    """Divide three texts into regions that cover all of their lines, in order.

    Args:
        base: Lines that both sides started from.
        ours: Lines of one side.
        theirs: Lines of the other.

    Yields:
        Each line that both sides kept, and what lies between such lines.
    """
    texts = base, ours, theirs
    in_ours, in_theirs = _kept(base, ours), _kept(base, theirs)
    done = (0, 0, 0)
    for place in [*((i, in_ours[i], in_theirs[i]) for i in in_ours if i in in_theirs), tuple(map(len, texts))]:
        behind = tuple(i + 1 for i in place)
        for start, stop in ((done, place), (place, behind)):
            region = Region(*(text[a:b] for text, a, b in zip(texts, start, stop, strict=True)))
            if any(region):
                yield region
        done = behind


def _kept(base: Sequence[str], side: Sequence[str]) -> dict[int, int]:
    """Return where in `side` each line of the base stands that was kept: {index: index}, both rising."""
    blocks = difflib.SequenceMatcher(None, base, side, autojunk=False).get_matching_blocks()
    return {a + i: b + i for a, b, size in blocks for i in range(size)}
