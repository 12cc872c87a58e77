"""The recipes of real images end to end; what they choose and tile is tested in tests/methods."""

import sys
from pathlib import Path

import numpy as np
import pytest
from helpers import ROOT, refused, run_here, unscored
from safetensors.torch import load_file

from distill_hub import load_distilled
from distill_hub.coresets.dynamics import dynamics_of
from distill_hub.coresets.select import draw
from distill_hub.data.sources import load_source
from distill_hub.disk.files import cache_dir
from distill_hub.running.seeds import draw_seed

WORDS = ["--ipc", "2", "--teacher_epochs", "4", "--students", "convnet-1-w16", "--repeats", "1", "--view_epochs", "0"]
NAMES = {"random_real": "random", "herding": "herding", "kcenter": "kcenter", "coreset": "aum", "rded": "rded"}
OWN_WORDS = {
    "rded": ["--images_per_class", "20"],
    "coreset": ["--method", "aum", "--dynamics_network", "convnet-1-w8-bn", "--dynamics_epochs", "3", "--keep", "easiest"],
}


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """A folder per recipe. Students are trained on one of the sets."""
    folder = tmp_path_factory.mktemp("real")
    run_here("recipes/random_real.py", *WORDS, "--output_dir", str(folder / "random_real"))
    with unscored():
        for recipe in ("herding", "kcenter", "coreset", "rded"):
            words = [*WORDS, *OWN_WORDS.get(recipe, []), "--output_dir"]
            run_here(f"recipes/{recipe}.py", *words, str(folder / recipe))
    return {recipe: folder / recipe for recipe in NAMES}


def pixels(folder: Path) -> np.ndarray:
    return np.stack([np.array(image) for image in load_distilled(folder).dataset["image"]])


@pytest.mark.parametrize("recipe", ["random_real", "herding", "kcenter", "coreset"])
def test_images_are_those_of_the_training_split_at_their_rows(sets, recipe):
    dataset, train = load_distilled(sets[recipe]).dataset, load_source("digits").train
    rows = dataset["seed"][:]
    assert len(set(rows)) == 20 and train.labels[rows].tolist() == dataset["label"][:]
    expected = np.stack([np.array(train.dataset[row]["image"]) for row in rows])
    np.testing.assert_array_equal(pixels(sets[recipe]), expected)


def test_random_rows_are_drawn_class_by_class_from_the_class_s_name(sets):
    labels = load_source("digits").train.labels
    own = np.flatnonzero(labels == 7)
    expected = own[draw(len(own), 2, draw_seed(0, "random", "7"))]
    assert load_distilled(sets["random_real"]).dataset["seed"][14:16] == expected.tolist()


def test_the_methods_differ(sets):
    chosen = {tuple(sorted(load_distilled(folder).dataset["seed"][:])) for folder in sets.values()}
    assert len(chosen) == len(NAMES)


def test_a_coreset_says_by_what_it_was_chosen(sets):
    """The easiest two of each class by what its networks said, which lies in the user's cache."""
    made = load_distilled(sets["coreset"])
    assert made.manifest.method.title == "AUM, easiest images"
    files = [file for file in cache_dir().glob("digits-dynamics-*/*.safetensors") if len(load_file(file)["margin"]) == 3]
    found = [dynamics_of(load_source("digits"), [("cached", file)]) for file in files]
    (dynamics,) = [own for own in found if own.sha256 == made.manifest.method.notes["dynamics_sha256"]]
    difficulty, labels = dynamics.difficulty("aum", 3).numpy(), load_source("digits").train.labels
    for label in (0, 9):
        own = np.flatnonzero(labels == label)
        assert (
            made.dataset["seed"][2 * label : 2 * label + 2] == own[np.argsort(difficulty[own], kind="stable")[:2]].tolist()
        )


@pytest.mark.parametrize("recipe", NAMES)
def test_the_manifest_and_the_chunks(sets, recipe):
    manifest, name = load_distilled(sets[recipe]).manifest, NAMES[recipe]
    assert (manifest.name, manifest.method.name) == (f"digits-ipc2-{name}", name)
    assert manifest.generator is None and manifest.classes[3].generator_index is None
    assert manifest.license == manifest.source.license == "cc-by-4.0"
    assert (manifest.image_size, manifest.soft_labels) == (16, "teacher")
    assert list(manifest.method.notes) == {"rded": ["factor"], "coreset": ["dynamics_sha256"]}.get(recipe, [])
    chunks = sorted((sets[recipe] / ".run" / "select").glob("*.safetensors"))
    assert len(chunks) == 10 and all(len(load_file(chunk)["images"]) == 2 for chunk in chunks)


def test_the_baseline_is_random_real_images_alone(sets):
    (record,) = load_distilled(sets["random_real"]).evaluations
    assert set(record.baselines) == {"random real"}


@pytest.mark.parametrize("recipe", NAMES)
def test_the_card_does_not_speak_of_a_generator(sets, recipe):
    card = (sets[recipe] / "README.md").read_text()
    assert "generator" not in card and "synthetic" not in card and "None" not in card
    assert "its row in the source's training split" in card


def test_the_teacher_labels_what_is_published(sets):
    """The same image in two sets has the same soft label, whatever stands beside it."""
    labels = {}
    for recipe in ("random_real", "herding", "kcenter"):
        dataset = load_distilled(sets[recipe]).dataset
        soft = dataset["soft_label"][:]
        labels[recipe] = dict(zip(dataset["seed"][:], soft, strict=True))
        assert (np.argmax(soft, 1) == dataset["label"][:]).mean() > 0.5
    shared = [(a, b, row) for a in labels for b in labels if a < b for row in labels[a].keys() & labels[b].keys()]
    assert shared
    for a, b, row in shared:
        np.testing.assert_allclose(labels[a][row], labels[b][row], rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("recipe", "words", "parts"),
    [
        ("herding", ["--ipc", "1000"], ["ipc", "1000", "images"]),
        ("random_real", ["--embed_batch_size", "8"], ["--embed_batch_size"]),
        ("kcenter", ["--embed_batch_size", "0"], ["embed_batch_size", "> 0"]),
        ("coreset", ["--method", "kmeans", "--keep", "easiest"], ["keep", "kmeans keeps neither end"]),
        ("coreset", ["--dynamics", "tests"], ["dynamics: 'tests'", "fit_classifier --dynamics", "no dynamics.safetensors"]),
        ("coreset", ["--baselines", "random,herdin"], ["baselines: 'herdin'", "did you mean 'herding'"]),
        ("rded", ["--factor", "3"], ["image_size", "16", "multiple of factor, 3"]),
        ("rded", ["--factor", "2", "--images_per_class", "5"], ["images_per_class", "5", "8 real images"]),
        ("rded", ["--factor", "8"], ["ipc", "images, and factor 8", "128"]),
    ],
)
def test_bad_input(sets, capfd, tmp_path, recipe, words, parts):
    line = refused(capfd, f"recipes/{recipe}.py", *WORDS, *words, "--output_dir", str(tmp_path / "set"))
    assert all(part in line for part in parts), line
    assert not (tmp_path / "set" / ".run" / "select").exists()


def test_no_recipe_is_taken_for_a_module_of_python():
    """The folder of a script comes first where Python looks for modules: numpy and torch would import it."""
    assert not {file.stem for file in (ROOT / "recipes").glob("*.py")} & sys.stdlib_module_names
