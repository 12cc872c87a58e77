"""The plot of a group: accuracies are where the axis says, and what they are held against is drawn and named."""

import numpy as np
import pytest
from compared import score

from distill_hub.comparing.compare import compare, read_sets
from distill_hub.comparing.plot import WIDTH, axis, plot


def plotted(*folders):
    (group,) = compare(read_sets(folders))
    return plot(group)


def value(drawing, place):
    """Read an accuracy off the axis."""
    places, names = zip(*sorted(drawing.ticks), strict=True)
    return float(np.interp(place, places, list(map(float, names))))


def level(mean, **fields):
    return {"score": score(mean, mean, mean), "baselines": {}, **fields}


@pytest.mark.parametrize(
    ("values", "starts_at_0"),
    [([20, 60], True), ([40, 79], False), ([40, 81], True), ([88.5, 94.7], False), ([0, 0], True), ([93.1, 93.2], False)],
)
def test_an_axis_starts_at_0_unless_that_hides_the_differences_and_then_it_says_so(values, starts_at_0):
    found = axis(values)
    assert found.low <= min(values) and max(values) <= found.high and found.high > found.low
    assert (found.low == 0) is starts_at_0
    assert found.note == ("" if starts_at_0 else f"the axis starts at {found.low:g} %")
    assert (found.low, found.high) == (found.ticks[0], found.ticks[-1]) and 2 <= len(found.ticks) <= 9
    assert np.ptp(np.diff(found.ticks)) < 1e-9


def test_an_axis_of_accuracies_ends_at_100():
    assert [axis(values).high for values in ([0, 100], [99.9, 100], [70, 104])] == [100] * 3  # what deviates beyond is cut


def test_marks_of_one_size_are_where_their_accuracies_are(make_set):
    random = {"random real": score(0.86, 0.86, 0.86), "all real images, hard labels": score(0.93, 0.93, 0.93)}
    drawing = plotted(
        make_set("one", {"score": score(0.88, 0.9, 0.92), "baselines": random}),
        make_set("two", level(0.89, submitted_by="bob")),
        make_set("flat", level(0.3, submitted_by="bob") | {"score": score(0.85, 0.87, 0.85)}),
    )
    assert [round(value(drawing, mark.x), 1) for mark in drawing.marks] == [90.0, 89.0, 85.7]
    assert [round(value(drawing, end), 1) for end in drawing.marks[0].ends] == [88.0, 92.0]
    assert [mark.label for mark in drawing.marks] == ["one", "two, by bob (unconfirmed)", "flat, by bob (unconfirmed)"]
    assert [mark.is_claim for mark in drawing.marks] == [True, False, False]
    assert [line.label for line in drawing.lines] == ["random real 86.0", "all real 93.0"]
    assert [round(value(drawing, line.points[0][0]), 1) for line in drawing.lines] == [86.0, 93.0]
    assert drawing.notes[0].startswith("the axis starts at 8")
    assert "filled: claimed by the author; hollow: measured by others" in drawing.notes
    ys = [mark.y for mark in drawing.marks]
    assert ys == sorted(ys) and min(np.diff(ys)) > 20 and all(0 < mark.x < WIDTH for mark in drawing.marks)
    assert drawing.height > max(ys)


def test_lines_over_sizes_are_where_their_accuracies_are(make_set, build_manifest):
    usual = build_manifest()("0" * 64).method
    ccs = usual.model_copy(update={"name": "ccs", "title": "CCS"})
    random = {"random real": score(0.5, 0.5, 0.5), "all real images, hard labels": score(0.99, 0.99, 0.99)}
    drawing = plotted(
        make_set("small", level(0.6, baselines=random), ipc=1),
        make_set("again", level(0.55, baselines=random), ipc=1),
        make_set("large", level(0.7, baselines={"random real": score(0.66, 0.66, 0.66)}), ipc=10),
        make_set("larger", level(0.75), ipc=100),
        make_set("ccs", level(0.65), ipc=10, method=ccs),
        make_set("flat", level(0.3), ipc=100, method=ccs),
    )
    assert [name for _, name in drawing.sizes] == ["1", "10", "100"]
    xs = [x for x, _ in drawing.sizes]
    assert xs[1] - xs[0] == pytest.approx(xs[2] - xs[1], abs=0.2)  # a logarithmic axis
    assert dict(drawing.legend) == {0: "CaO2", 1: "CCS"}
    best = {series: [round(value(drawing, y)) for _, y in points] for series, points in drawing.paths}
    assert best == {0: [60, 70, 75], 1: [65, 30]}  # of two sets of one size and method the better one
    held = {line.kind: [(x, round(value(drawing, y))) for x, y in line.points] for line in drawing.lines}
    assert held == {
        "random": [(xs[0], 50), (xs[1], 66)],
        "coreset": [(xs[1], 65), (xs[2], 30)],
        "real": [(x, 99) for x in xs],
    }
    assert [mark.title for mark in drawing.marks if mark.is_collapsed] == [
        "flat, 100 images per class: 30.0 ± 0.0, students collapsed"
    ]
    assert "crossed out: students collapsed" in drawing.notes
    labels = sorted(line.at[1] for line in drawing.lines)
    assert len(labels) >= 2 and min(np.diff(labels)) >= 15  # none lies on another


def test_of_very_many_methods_the_best_of_each_size_have_a_colour(make_set, build_manifest):
    usual = build_manifest()("0" * 64).method
    folders = []
    for i in range(9):  # with one image the higher numbers are better, with ten the lower ones
        method = usual.model_copy(update={"name": f"m{i}", "title": f"M{i}"})
        folders.append(make_set(f"m{i}-1", level(0.2 + i / 50), ipc=1, method=method))
        folders.append(make_set(f"m{i}-10", level(0.6 - i / 50), ipc=10, method=method))
    drawing = plotted(*folders)
    assert [name for _, name in drawing.legend] == ["M8", "M0", "M7", "M1", "M6", "M2", "M5"]
    assert len(drawing.marks) == 18 and len(drawing.paths) == 9
    grey = [mark.title.split(",")[0] for mark in drawing.marks if mark.series is None]
    assert sorted(grey) == ["m3-1", "m3-10", "m4-1", "m4-10"]
    assert drawing.notes[0].endswith("grey: the other 2, each named when pointed at")


def test_all_real_data_far_above_do_not_press_the_rest_flat(make_set):
    real = {"all real images, hard labels": score(0.9, 0.9, 0.9)}
    drawing = plotted(make_set("one", level(0.3, baselines=real)), make_set("two", level(0.35)))
    assert not drawing.lines and "all real images: 90.0 %, beyond the axis" in drawing.notes
    assert all(float(name) < 50 for _, name in drawing.ticks)


def test_of_very_many_rows_the_best_are_drawn(make_set):
    (own,) = read_sets([make_set("one", *[{"seeds": [i], "score": score(i / 100), "baselines": {}} for i in range(40, 70)])])
    (group,) = compare([own])
    drawing = plot(group)
    assert (
        len(drawing.marks) == 25
        and drawing.notes[0] == "the best 25 of 30 rows"
        and drawing.marks[0].title.endswith("69.0 ± 0.0")
    )
