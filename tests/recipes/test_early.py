"""Names and paths that cannot be are refused at once: nothing heavy has been imported when the one line is printed."""

import subprocess
import sys
from pathlib import Path

import pytest

from distill_hub.classifiers import load_classifier
from distill_hub.config import InputError
from distill_hub.data.sources import load_source
from distill_hub.generators.dit import DiTGenerator
from distill_hub.networks.build import build

ROOT = Path(__file__).parents[2]
# Runs a program, and prints what of the heavy libraries it has imported when it ends.
PROGRAM = """
import runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print({"torch", "torchvision", "datasets", "diffusers", "transformers", "timm", "accelerate"} & set(sys.modules))
"""


def refused(folder: Path, *words: str) -> str:
    command = [sys.executable, "-c", PROGRAM, str(ROOT / words[0]), *words[1:]]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout) == (2, "set()\n"), done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1
    assert list(folder.iterdir()) == [folder / "file"]
    return done.stderr


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "file").write_text("words")
    return tmp_path


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("cao2.py --source ../phots", ["source: '../phots'", "no such folder"]),
        ("cao2.py --source imagewof", ["source: 'imagewof'", "did you mean 'imagewoof'", "existing folder"]),
        ("fit_classifier.py --source a/b/c", ["source: 'a/b/c'", "no such folder"]),
        ("fit_generator.py --source=~/photos", ["photos' cannot be used", "no such folder"]),
        ("cao2.py --config none.yaml", ["config: 'none.yaml'", "readable"]),
        ("dgs.py --generator ./nothing", ["generator: './nothing'", "a pipeline with", "no such folder"]),
        ("minimax.py --generator .", ["generator: '.'", "a pipeline with", "model_index.json"]),
        ("psr.py --generator file", ["generator: 'file'", "a pipeline with"]),
        ("psr.py --kl_weight_min 3", ["kl_weight_min: 3.0", "kl_weight_max, 2.0"]),
        ("sre2l.py --teacher ../teacher", ["teacher: '../teacher'", "timm/NAME", "no such folder"]),
        ("lpld.py --teacher .", ["teacher: '.'", "config.json"]),
        ("herding.py --teacher resnet18", ["teacher: 'resnet18'", "timm/NAME"]),
        ("plain.py --students convnet-2,resnett-18", ["students: 'resnett-18'", "did you mean 'resnet-18'"]),
        ("rded.py --protocol rded-soft --students resnet-18", ["students: 'resnet-18'", "BatchNorm: resnet-18-bn"]),
        ("plain.py --protocol idc-hart", ["protocol: 'idc-hart'", "did you mean 'idc-hard'"]),
        ("plain.py --repeats 0", ["repeats: '0'", "> 0"]),
        ("random_real.py --ipc x", ["ipc: 'x'", "integer > 0"]),
        ("deda.py --ipc 1", ["ipc: 1 ", "2 or more"]),
        ("kcenter.py --output_dir file", ["output_dir: 'file'", "it is a file"]),
        ("plain.py --output_dir file/set", ["output_dir: 'file/set'", "is a file"]),
        ("plain.py --push_to_hub a/b/c", ["repository: 'a/b/c'", "NAMESPACE/NAME"]),
        ("plain.py --push_to_hub a--b", ["repository: 'namespace/a--b'", "NAMESPACE/NAME"]),
        ("fit_classifier.py --network resnet18-bn", ["network: 'resnet18-bn'", "did you mean 'resnet-18-bn'"]),
        ("fit_classifier.py --output_dir file", ["output_dir: 'file'", "it is a file"]),
        ("evaluate.py ./nowhere", ["distilled set: './nowhere'", "no such folder"]),
        ("evaluate.py org/set --students convnet-x", ["students: 'convnet-x'", "did you mean 'convnet-D'"]),
        ("evaluate.py org/set --teacher ./nothing", ["teacher: './nothing'", "no such folder"]),
        ("evaluate.py org/set --source ./nothing", ["source: './nothing'", "no such folder"]),
        ("relabel.py nowhere", ["distilled set: 'nowhere'", "no such folder"]),
    ],
)
def test_a_recipe_refuses_at_once(folder, words, parts):
    recipe, *rest = words.split()
    line = refused(folder, f"recipes/{recipe}", *rest)
    assert all(part in line for part in parts), line


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        ("evaluate ./nowhere", ["distilled set: './nowhere'", "no such folder"]),
        ("reproduce ./nowhere", ["distilled set: './nowhere'", "no such folder"]),
        ("reproduce org/set --generator ./nothing", ["generator: './nothing'", "a pipeline with"]),
        ("reproduce org/set --output_dir file", ["output_dir: 'file'", "it is a file"]),
        ("relabel ./nowhere", ["distilled set: './nowhere'", "no such folder"]),
        ("adopt ./nowhere.pt --source cifar10", ["distilled set: './nowhere.pt'", "no such file"]),
        ("adopt file --source cifr10", ["source: 'cifr10'", "did you mean 'cifar10'"]),
        ("adopt file --source cifar10 --teacher .", ["teacher: '.'", "config.json"]),
    ],
)
def test_a_command_refuses_at_once(folder, words, parts):
    line = refused(folder, "distill_hub/cli.py", *words.split())
    assert all(part in line for part in parts), line


@pytest.mark.parametrize("name", ["../phots", "imagewof", "a/b/c", "./x", "my photos"])
def test_a_source_is_refused_in_the_same_words_later(folder, name, monkeypatch):
    monkeypatch.chdir(folder)
    with pytest.raises(InputError) as late:
        load_source(name)
    assert refused(folder, "recipes/plain.py", f"--source={name}") == f"error: {late.value}\n"


def test_other_names_are_refused_in_the_same_words_later(folder, monkeypatch):
    monkeypatch.chdir(folder)
    later = [
        (lambda: build("resnett-18", 10, 32), "recipes/plain.py", "--students=resnett-18"),
        (lambda: DiTGenerator.from_pretrained("./no"), "recipes/plain.py", "--generator=./no"),
        (lambda: load_classifier("./no", []), "recipes/plain.py", "--teacher=./no"),
    ]
    for use, *words in later:
        with pytest.raises(InputError) as late:
            use()
        assert str(late.value).split(" (")[0] in refused(folder, *words)
