"""The three-way merge against cases written by hand, and its laws on random texts."""

import random

import pytest

from distill_hub.publishing.merge import regions


def merged(base, ours, theirs):
    """Words of the merge, one a line; a conflict as <what was|ours|theirs>."""
    result = []
    for region in regions(base.split(), ours.split(), theirs.split()):
        if region.settled is None:
            result.append("<" + "|".join(" ".join(lines) for lines in region) + ">")
        else:
            result += region.settled
    return " ".join(result)


@pytest.mark.parametrize(
    ("base", "ours", "theirs", "result"),
    [
        ("a b c", "a b c", "a b c", "a b c"),
        # One side inserts, deletes or replaces: at the start, inside, at the end.
        ("a b c", "x a b c", "a b c", "x a b c"),
        ("a b c", "a b c", "a x b c", "a x b c"),
        ("a b c", "a b c x y", "a b c", "a b c x y"),
        ("a b c", "a b c", "b c", "b c"),
        ("a b c", "a c", "a b c", "a c"),
        ("a b c", "a b c", "a b", "a b"),
        ("a b c", "x b c", "a b c", "x b c"),
        ("a b c", "a b c", "a x y c", "a x y c"),
        ("a b c", "", "a b c", ""),
        # Both sides, in different places.
        ("a b c d e", "x b c d e", "a b c d y", "x b c d y"),
        ("a b c d e", "b c d e", "a b c d e f", "b c d e f"),
        ("a b c d e", "a x b c d e", "a b c e", "a x b c e"),
        # Both sides alike.
        ("a b c", "a x c", "a x c", "a x c"),
        ("a b c", "a c", "a c", "a c"),
        ("a b", "a x b", "a x b", "a x b"),
        # Next to each other: nothing in between says which comes first, or whether one minds the other.
        ("a b", "x b", "a y", "<a b|x b|a y>"),
        ("a b c", "a x b c", "a c", "a <b|x b|> c"),
        ("a b c", "a c", "a b x c", "a <b||b x> c"),
        # The same place.
        ("a b c", "x b c", "y b c", "<a|x|y> b c"),
        ("a b c", "a b x", "a b y", "a b <c|x|y>"),
        ("a b c", "a x c", "a c", "a <b|x|> c"),
        ("a b", "a x b", "a y b", "a <|x|y> b"),
        # No common base.
        ("", "", "", ""),
        ("", "a b", "", "a b"),
        ("", "", "a b", "a b"),
        ("", "a b", "a b", "a b"),
        ("", "a b", "b c", "<|a b|b c>"),
        ("a", "", "", ""),
        # Lines that repeat.
        ("a a a", "a a a a", "a a a", "a a a a"),
        ("- x - y -", "- x - z -", "- x - y - -", "- x - z - -"),
    ],
)
def test_by_hand(base, ours, theirs, result):
    assert merged(base, ours, theirs) == result


def test_a_line_without_its_newline_is_another_line():
    (kept, end) = regions(["a\n", "b"], ["a\n", "b\n", "c\n"], ["a\n", "b"])
    assert kept == (["a\n"],) * 3 and end == (["b"], ["b\n", "c\n"], ["b"]) and end.settled == ["b\n", "c\n"]


def texts(rng):
    """Three short texts: sometimes two edits of the first, sometimes anything, in few words, so that lines repeat."""
    words = "abcdefghij"[: rng.choice((2, 4, 10))]
    base = rng.choices(words, k=rng.randrange(9))
    if rng.random() < 0.3:
        return base, *(rng.choices(words, k=rng.randrange(9)) for _ in range(2))
    sides = []
    for _ in range(2):
        side = [word for word in base if rng.random() < 0.8]
        for _ in range(rng.randrange(3)):
            side.insert(rng.randrange(len(side) + 1), rng.choice(words + "xyz"))
        sides.append(side)
    return base, *sides


def test_laws_on_random_texts():
    rng = random.Random(0)
    conflicts = 0
    for _ in range(3000):
        base, ours, theirs = texts(rng)
        found = list(regions(base, ours, theirs))
        # All lines, in order, and each region is of some.
        for place, text in enumerate((base, ours, theirs)):
            assert [line for region in found for line in region[place]] == text
        assert all(any(region) for region in found)
        for region in found:
            if region.settled is None:
                conflicts += 1
                assert region.base != region.ours != region.theirs != region.base
            else:
                assert region.settled in region
        # What one side left alone is as the other has it.
        for arguments, side in (((base, ours, base), ours), ((base, base, theirs), theirs), ((base, ours, ours), ours)):
            settled = [region.settled for region in regions(*arguments)]
            assert None not in settled and [line for lines in settled for line in lines] == side
        # The sides are equal in rank.
        assert [(b, t, o) for b, o, t in found] == list(regions(base, theirs, ours))
    assert 500 < conflicts < 6000


def test_edits_that_a_kept_line_separates_both_count():
    rng = random.Random(1)
    for _ in range(1000):
        base = [f"line {i}" for i in range(rng.randrange(3, 9))]
        wall = rng.randrange(1, len(base) - 1)
        head, tail = rng.choices("xyz", k=rng.randrange(4)), rng.choices("xyz", k=rng.randrange(4))
        found = regions(base, [*head, *base[wall:]], [*base[: wall + 1], *tail])
        assert [line for region in found for line in region.settled] == [*head, base[wall], *tail]
