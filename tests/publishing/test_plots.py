"""Pictures for the card, by their pixels."""

import numpy as np
import PIL.Image
import pytest

from distill_hub.artifact.load import load_artifact
from distill_hub.publishing.plots import (
    COLORS,
    difficulty_chart,
    drawable,
    embedding_map,
    learning_curves,
    preview_grid,
    preview_width,
    refinement_grid,
)


def pixels(path):
    return np.asarray(PIL.Image.open(path).convert("RGB")).astype(int)


def places(picture, color):
    """Rows and columns of the pixels that have a colour."""
    wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
    return np.argwhere((picture == wanted).all(2))


def test_preview_grid_shows_the_pixels(artifact, tmp_path, names):
    images = np.stack([np.asarray(row["image"]) for row in load_artifact(artifact).dataset]).reshape(3, 2, 8, 8, 3)
    preview_grid(images, names, tmp_path / "assets" / "preview.png")
    page = np.asarray(PIL.Image.open(tmp_path / "assets" / "preview.png").convert("RGB"))
    grid = page[-12 - (3 * 68 - 4) :, -12 - (2 * 68 - 4) :]  # 3 rows and 2 columns of 64 pixels, gaps of 4, margin 12
    for c in range(3):
        for n in range(2):
            tile = grid[c * 68 + 4 : c * 68 + 68 : 8, n * 68 + 4 : n * 68 + 68 : 8]  # centres of the enlarged pixels
            np.testing.assert_array_equal(tile, images[c, n])
    assert (page[0] == 255).all() and (page[:, 0] == 255).all()


@pytest.mark.parametrize(
    ("names", "count", "size"),
    [
        (["cat", "dog"], 10, 32),
        ([f"class {i}" for i in range(10)], 10, 32),
        ([f"a long name, {i:2}" for i in range(30)], 1, 64),
    ],
)
def test_a_preview_fits_into_a_square_on_the_card(tmp_path, names, count, size):
    images = np.zeros((len(names), count, size, size, 3), dtype=np.uint8)
    preview_grid(images, names, tmp_path / "preview.png")
    width, height = PIL.Image.open(tmp_path / "preview.png").size
    shown = preview_width(names, [count] * len(names), size, 360)
    assert 300 < max(shown, shown * height / width) < 380


def test_a_preview_of_single_images_is_a_row(tmp_path):
    images = np.random.default_rng(0).integers(0, 255, (3, 1, 8, 8, 3), dtype=np.uint8)
    preview_grid(images, ["cat", "automobile", "dog"], tmp_path / "preview.png")
    page = np.asarray(PIL.Image.open(tmp_path / "preview.png").convert("RGB"))
    row = page[-12 - 64 : -12, 12:-12]  # below the names: 3 images of 64 pixels, gaps of 4, margin 12
    assert row.shape[1] == 3 * 68 - 4
    for c in range(3):
        np.testing.assert_array_equal(row[4::8, c * 68 + 4 : c * 68 + 68 : 8], images[c, 0])
    assert page[: -12 - 64].min() < 128, "no names"
    assert preview_width(["cat", "automobile", "dog"], [1] * 3, 8, 360) == 3 * 68


def test_preview_grid_of_many_large_classes_stays_small(tmp_path):
    images = np.zeros((50, 12, 160, 160, 3), dtype=np.uint8)
    preview_grid(images, [f"class {i}" for i in range(50)], tmp_path / "preview.png")
    width, height = PIL.Image.open(tmp_path / "preview.png").size
    assert 10 * 128 < width < 10 * 132 + 200
    assert 20 * 128 < height < 20 * 132 + 100


@pytest.mark.filterwarnings("error")  # matplotlib's, of each character that its font lacks
def test_a_name_that_the_font_cannot_draw_gives_way_to_its_label(tmp_path):
    # DejaVu Sans, which comes with matplotlib, has the first four, and neither Chinese nor Korean nor Devanagari.
    names = ["Café", "žluťoučký", "Ελλάδα", "Привет", "猫", "한국어", "हिन्दी", "cats 猫"]
    expected = [*names[:4], "label 4", "label 5", "label 6", "label 7"]
    assert drawable(names) == expected
    images = np.zeros((8, 1, 8, 8, 3), dtype=np.uint8)
    preview_grid(images, names, tmp_path / "a.png")
    preview_grid(images, expected, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_difficulty_chart_has_a_bar_as_high_as_its_count_in_every_panel(tmp_path):
    counts = {"real": np.array([8, 0, 4, 0]), "pool": np.array([0, 0, 0, 8])}
    path, target = tmp_path / "assets" / "difficulty.png", np.array([0, 2, 0, 8])
    difficulty_chart({"as measured": counts, "transformed": counts}, target, path)
    picture = np.asarray(PIL.Image.open(path).convert("RGB"))
    assert picture.shape == (440, 600, 3)
    bars = (picture == (0x9D, 0xB8, 0xD9)).all(2)  # pixels inside bars
    for upper in (True, False):
        rows = bars[:220] if upper else bars[220:]
        real, pool = rows[:, :300].sum(0), rows[:, 300:].sum(0)  # heights of the bars, by column of pixels
        heights = np.unique(real[real > 5])
        assert abs(heights.max() - 2 * heights.min()) <= 3  # 8 and 4
        assert abs(pool.max() - real.max()) <= 3 and (pool > 5).sum() < (real > 5).sum()
    outline = (picture == (0xB0, 0x3A, 0x2E)).all(2)
    assert outline[220:, 300:].any() and not outline[:220].any() and not outline[:, :300].any()


def test_refinement_grid_shows_before_after_and_what_changed(tmp_path):
    before = np.random.default_rng(0).integers(60, 180, (2, 8, 8, 3), dtype=np.uint8)
    after = before.copy()
    after[0, :4] += 20
    after[1, :, :4, 1] -= 10
    refinement_grid(before, after, ["cat", "dog"], tmp_path / "refinement.png")
    picture = pixels(tmp_path / "refinement.png")
    assert picture.shape[1] > 200 and (picture[0] == 255).all()
    grid = picture[-12 - (3 * 68 - 4) :, -12 - (2 * 68 - 4) :]  # rows of 64 pixels, gaps of 4, margin 12
    changed = np.zeros((2, 8, 8, 3), dtype=int)
    changed[0, :4], changed[1, :, :4, 1] = 20 * 12, 10 * 12  # 255 / 20, rounded down
    for y, images in enumerate((before, after, changed)):
        for x in range(2):
            tile = grid[y * 68 + 4 : y * 68 + 68 : 8, x * 68 + 4 : x * 68 + 68 : 8]
            np.testing.assert_array_equal(tile, images[x])


def test_refinement_grid_of_nothing_changed_is_black(tmp_path):
    same = np.full((1, 16, 16, 3), 200, dtype=np.uint8)
    refinement_grid(same, same, ["$5$"], tmp_path / "refinement.png")
    assert (pixels(tmp_path / "refinement.png")[-12 - 60 : -12 - 4, -12 - 60 : -12 - 4] == 0).all()


def test_embedding_map_shows_the_directions_of_the_real_images(tmp_path):
    """They vary along one diagonal of 5 dimensions; the pool varies elsewhere, which must not turn the picture."""
    rng = np.random.default_rng(0)
    along, across = np.eye(5)[1] + np.eye(5)[3], np.eye(5)[0]

    def cloud(centre, width, count=40):
        return np.stack([(centre + width * a) * along + b * across for a, b in rng.normal(0, 1, (count, 2))])

    embeddings = {
        "real": [cloud(-20, 1), cloud(20, 1)],
        "pool": [rng.normal(0, 100, (5, 5)) * np.eye(5)[2] - 20 * along, cloud(20, 1, 5)],
        "this set": [np.tile(-20 * along, (3, 1)), np.tile(20 * along, (2, 1))],
    }
    path, again = tmp_path / "embedding.png", tmp_path / "again.png"
    embedding_map(embeddings, ["cat", "dog"], path)
    picture = pixels(path)
    cat, dog = (places(picture, color)[:, 1] for color in COLORS[:2])
    assert len(cat) > 20 and len(dog) > 20
    left, right = sorted([cat, dog], key=np.mean)
    assert left.max() < 300 < 400 < right.min()
    assert len(places(picture, COLORS[2])) == 0
    embedding_map(embeddings, ["cat", "dog"], again)
    assert again.read_bytes() == path.read_bytes()


def test_learning_curves_lie_where_the_accuracies_are(tmp_path):
    sets = {"this set": np.array([[0.2, 0.8], [0.4, 1.0]]), "random real": np.array([[0.0, 0.0], [0.0, 0.0]])}
    path = tmp_path / "curves.png"
    panels = {"convnet-3": sets, "resnet-18": {"this set": np.full((1, 2), 0.5)}}
    learning_curves(panels, {"convnet-3": [1, 11], "resnet-18": [1, 11]}, path)
    picture = pixels(path)
    left, right = picture[:, :400], picture[:, 400:]
    height = picture.shape[0]
    flat = places(left, COLORS[1])[:, 0]
    assert np.ptp(flat) < 15  # a line at 0, at the bottom
    own = places(left, COLORS[0])
    low, high = own[own[:, 1].argmin(), 0], own[own[:, 1].argmax(), 0]
    zero = flat.mean()
    assert (zero - high) / (zero - low) == pytest.approx(0.9 / 0.3, rel=0.1)  # means of the seeds
    assert high < height / 4 < zero
    second = places(right, COLORS[0])
    on_the_curve = second[second[:, 1] < 300]  # left of the legend
    assert (zero - on_the_curve[:, 0].mean()) / (zero - high) == pytest.approx(0.5 / 0.9, rel=0.1)
