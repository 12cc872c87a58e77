"""Every settings file is read by its recipe, every command in its header as it stands; papers' numbers are theirs."""

import functools
import re
import shlex

import pytest
import timm
import yaml
from headers import blocks, header, is_command, launched
from helpers import RECIPES, ROOT
from torch import nn
from torchvision.models import resnet18

from distill_hub.cli import settings_of
from distill_hub.config import options, parse, resolved
from distill_hub.generators.dit import DEFAULTS
from distill_hub.networks.build import check_student
from distill_hub.options.cao2 import Cao2Config
from distill_hub.options.commands import EvaluateConfig
from distill_hub.options.convert import ConvertConfig
from distill_hub.options.dgs import DgsConfig
from distill_hub.options.experts import ExpertsConfig
from distill_hub.options.fit_classifier import FitClassifierConfig
from distill_hub.options.fit_generator import FitGeneratorConfig
from distill_hub.options.idc import IdcConfig
from distill_hub.options.minimax import MinimaxConfig
from distill_hub.options.mtt import MttConfig
from distill_hub.options.psr import PsrConfig
from distill_hub.options.shared import GeneratorFitOptions, SampleOptions
from distill_hub.training.protocols import protocol

CONFIGS = ROOT / "recipes" / "configs"
CLASSES = {"imagewoof": 10, "imagenette": 10, "imageidc": 10, "cifar10": 10, "imagenet100": 100, "cifar100": 100}
CLASSES |= {"tiny-imagenet": 200, "imagenet1k": 1000}
REAL = {"cifar10": "50,000", "cifar100": "50,000", "tiny-imagenet": "100,000", "imagenet1k": "about 1,281,000"}
SIDES = {"cifar10": 32, "cifar100": 32, "tiny-imagenet": 64}  # of the set's images, in pixels; others 256
# Which IPC the papers report, by source and method; the first is the file's own.
REPORTED = {
    "imagewoof/plain": [10, 20, 50, 70, 100],
    "imagewoof/difffit": [10, 50],
    "imagewoof/minimax": [10, 20, 50, 70, 100, 1, 10, 50],  # Minimax's paper, then CaO2's
    "imagewoof/cao2": [1, 10, 50],
    "imagewoof/cao2-minimax": [10, 50],
    "imagewoof/cao2-mar": [10, 50],
    "imagewoof/dgs": [10, 20, 50],
    "imagewoof/psr": [1, 10, 20, 50, 100],
    "imagewoof/psr-minimax": [1, 10, 20, 50, 100],
    "imagenette/plain": [10, 20, 50],
    "imagenette/minimax": [10, 20, 50, 1, 10, 50],
    "imagenette/cao2": [1, 10, 50],
    "imagenette/cao2-minimax": [10, 50],
    "imagenette/cao2-mar": [10, 50],
    "imagenette/dgs": [10, 20, 50],
    "imagenette/psr": [10, 20, 50],
    "imagenette/psr-minimax": [10, 20, 50],
    "imageidc/plain": [10, 20, 50],
    "imageidc/difffit": [10, 50],
    "imageidc/minimax": [10, 20, 50],
    "imageidc/dgs": [10, 20, 50],
    "imageidc/psr": [10, 20, 50],
    "imageidc/psr-minimax": [10, 20, 50],
    "imagenet100/minimax": [1, 10, 50],
    "imagenet100/cao2": [1, 10, 50],
    "imagenet1k/plain": [10, 50],
    "imagenet1k/minimax": [10, 50, 1, 10, 50],
    "imagenet1k/cao2": [1, 10, 50],
    "cifar10/psr": [1, 10, 50],
    "cifar100/psr": [1, 10, 50],
    "tiny-imagenet/psr": [1, 10, 50],
    "cifar10/deda": [10, 50],
    "cifar10/sre2l": [10, 50],
    "cifar100/deda": [10, 50],
    "cifar100/sre2l": [10, 50],
    "tiny-imagenet/deda": [10, 50, 100],
    "tiny-imagenet/lpld": [50, 100],
    "tiny-imagenet/sre2l": [10, 50, 100],
    "cifar10/dm": [1, 10, 50],
    "cifar10/idc": [1, 10, 50],
    "cifar10/idc-1": [1, 10, 50],
    "cifar10/dc": [1, 10, 50],
    "cifar10/dsa": [1, 10, 50],
    "cifar10/mtt": [10, 50],
    "cifar100/dm": [1, 10, 50],
    "cifar100/dc": [1, 10],
    "cifar100/dsa": [1, 10, 50],
    "tiny-imagenet/dm": [1, 10, 50],
    "imageidc/idc-1": [10, 20],
    "imagewoof/idc-1": [10, 20, 50, 70, 100],
    "imagenet1k/deda": [10, 50, 100],
    "imagenet1k/lpld": [10, 100],
    "imagenet1k/sre2l": [10, 50, 100],
}
# Or not in our form; one is of the house.
WITHOUT_NUMBERS = {"imagenette/mgd3", "imagenet1k/d4m", "imagenet1k/cda", "tiny-imagenet/cda", "cifar10/cao2-small"}
WITHOUT_NUMBERS |= {"imagenet1k/dwa", "cifar100/dwa", "tiny-imagenet/dwa"}
WITHOUT_NUMBERS |= {f"{source}/gvbsm" for source in ("imagenet1k", "tiny-imagenet", "cifar100", "cifar10")}
WITHOUT_NUMBERS |= {f"{source}/edc" for source in ("imagenet1k", "tiny-imagenet", "cifar100")}
RECOVERED = [name for name in REPORTED if name.endswith(("/deda", "/lpld", "/sre2l"))]  # without a generator
MATCHED = [name for name in REPORTED if re.search(r"/(dm|dc|dsa|idc|mtt|datm|tesla|ftd)", name)]
# Options that say which experiment a file is, so that it may repeat a default.
EXPERIMENT = {"source", "ipc", "protocol", "students", "condition", "pool_factor", "guidance_scale"}
MAR_BASE = "outputs/mar-base"  # converted
# Without a deviation where the paper repeats another's; a question mark for a cell that could not be read.
NUMBER = re.compile(r"([\w-]+) (\d+\.\d(?: ± \d\.\d|†)?|\?)")


@functools.cache
def read(line):
    """Return settings, IPC and folder of the set that a command makes or scores; IPC is None for a generator or teacher."""
    words = shlex.split(line)
    if words[:2] != ["distill-hub", "make"]:
        config = parse(settings_of(words[1]), words[2:])
        return config, int(re.search(r"-ipc(\d+)-", config.location)[1]), config.location
    method, config, _ = launched(line)
    if isinstance(config, (FitGeneratorConfig, FitClassifierConfig, ExpertsConfig, ConvertConfig)):
        return config, None, str(config.output_dir)
    if method == "minimax" and config.lambda_r == config.lambda_d == 0:
        method = "difffit"
    if isinstance(config, IdcConfig) and config.factor == 1:
        method = "idc-1"
    if method == "dc" and config.augment == "dsa":
        method = "dsa"
    if method != "minimax" and isinstance(config, SampleOptions) and config.generator.endswith("-minimax/generator"):
        method += "-minimax"  # which tuned it
    if isinstance(config, SampleOptions) and config.generator == MAR_BASE:
        method += "-mar"
    return config, config.ipc, str(config.output_dir or f"outputs/{config.source}-ipc{config.ipc}-{method}")


def scored(block):
    """Return the settings of the commands of a block that train students."""
    return [config for config, ipc, _ in map(read, block.commands) if ipc is not None]


@pytest.fixture(autouse=True)
def in_the_root(monkeypatch):
    monkeypatch.chdir(ROOT)


papers = pytest.mark.parametrize("name", REPORTED)
drawn = pytest.mark.parametrize("name", [name for name in REPORTED if name not in RECOVERED + MATCHED])
recovered = pytest.mark.parametrize("name", RECOVERED)


def file_of(name):
    return CONFIGS / f"{name}.yaml"


def own_commands(name):
    """Return the commands of a file's header that read the file itself."""
    own = f"--config {file_of(name).relative_to(CONFIGS)}"
    return [command for block in blocks(file_of(name)) for command in block.commands if own in command]


def test_the_files_are_those_that_papers_report_and_a_few_without_numbers():
    found = {str(file.relative_to(CONFIGS).with_suffix("")) for file in CONFIGS.rglob("*") if file.is_file()}
    assert found == {*REPORTED, *WITHOUT_NUMBERS}


@pytest.mark.parametrize("name", [*REPORTED, *sorted(WITHOUT_NUMBERS)])
def test_a_file_is_read_by_the_recipe_of_its_header_and_repeats_no_default(name):
    file = file_of(name)
    recipes = {launched(command)[0] for command in own_commands(name)}
    assert len(recipes) == 1
    config_class = RECIPES[recipes.pop()]
    config, default = parse(config_class, ["--config", str(file)]), config_class()
    assert config.source == name.split("/")[0]
    settings = yaml.safe_load(file.read_text())
    for option in settings.keys() - EXPERIMENT:
        assert getattr(config, option) != getattr(default, option), option
    assert {"source", "ipc"} <= settings.keys()
    assert [line for line in header(file) if len(line) > 123 and not is_command(line)] == []
    assert sum(line.startswith("Cost: ") for line in header(file)) == 1


@pytest.mark.parametrize("name", [*REPORTED, *sorted(WITHOUT_NUMBERS)])
def test_every_command_is_read_as_it_stands_and_is_about_the_ipc_that_it_says(name):
    made = set()
    for block in blocks(file_of(name)):
        for command in block.commands:
            config, ipc, folder = read(command)
            assert ipc in (None, block.ipc)
            if isinstance(config, EvaluateConfig):
                assert folder in made, "a set is made before it is scored"
                continue
            if ipc and isinstance(config, SampleOptions) and config.generator.startswith("outputs/"):
                assert config.generator in made, "a generator is tuned or fitted before it is used"
            if isinstance(config, MttConfig):
                assert config.experts in made, "experts are trained before they are matched"
            if ipc and config.teacher != "auto" and not config.teacher.startswith("timm/"):
                assert made.issuperset(config.teacher.split(",")), "a teacher is trained before it is used"
            made.add(folder)
            if isinstance(config, MinimaxConfig) and config.generator == "auto":
                made.add(f"{folder}/generator")


def test_no_two_files_write_different_sets_to_the_same_folder():
    makers = {}
    for name in REPORTED:
        for command in {c for block in blocks(file_of(name)) for c in block.commands if "distill-hub make" in c}:
            config, _, folder = read(command)
            assert makers.setdefault(folder, resolved(config)) == resolved(config), folder


@papers
def test_a_header_says_whose_the_numbers_are_and_has_every_ipc_with_the_students_it_trains(name):
    file = file_of(name)
    assert any("paper's" in line and "Not run here." in line for line in header(file))
    with_numbers = [block for block in blocks(file) if NUMBER.search(block.text)]
    assert [block.ipc for block in with_numbers] == REPORTED[name]
    assert read(own_commands(name)[0])[1] == yaml.safe_load(file.read_text())["ipc"] == REPORTED[name][0]
    for block in with_numbers:
        reported = [student.lower() for student, _ in NUMBER.findall(block.text)]
        assert ", ".join(f"{s} {n}" for s, n in NUMBER.findall(block.text)) == block.text
        trained = [s.removesuffix("-bn") for config in scored(block) for s in config.students.split(",")]
        # A block of several commands also trains students of another protocol or table, for which this paper has no number.
        assert set(reported) <= set(trained) if len(scored(block)) > 1 else reported == trained


def test_only_cells_that_cannot_be_read_or_are_repeated_have_no_deviation():
    """And those of methods that match, of which only means are at hand."""
    bare = {name for name in REPORTED for block in blocks(file_of(name)) if re.search(r"\d\.\d(,|$)", block.text)
            and "±" not in block.text}  # fmt: skip
    assert bare <= set(MATCHED)
    without = [(name, block) for name in REPORTED for block in blocks(file_of(name)) if re.search("[?†]", block.text)]
    sre2l, lpld = [("imagenet1k/sre2l", ipc) for ipc in (10, 50, 100)], [("imagenet1k/lpld", ipc) for ipc in (10, 100)]
    assert {(name, block.ipc) for name, block in without} == {*sre2l, *lpld}
    assert all(re.search(r" \d+\.\d", block.text) for _, block in without)


def test_protocols_and_students_are_known():
    pairs = {
        (config.protocol, config.students, name.split("/")[0])
        for name in REPORTED
        for block in blocks(file_of(name))
        for config in scored(block)
    }
    students = {(s, source) for p, names, source in pairs for s in protocol(p).students(names, SIDES.get(source, 256))}
    assert {p for p, _, _ in pairs} == {"dsa-hard", "idc-hard", "rded-soft", "kd", "sre2l", "lpld"}
    for student, source in students:
        check_student(student, CLASSES[source], SIDES.get(source, 224))


def test_teachers_are_timm_s_of_imagenet_1k_or_fitted_before():
    named = {config.teacher for name in REPORTED for block in blocks(file_of(name)) for config in scored(block)}
    fitted = {f"outputs/{source}-teacher" for source in SIDES}
    assert named == {None, "auto", "timm/resnet50.tv_in1k", "timm/convnext_base.fb_in1k", *fitted}
    for teacher in named - {None, "auto", *fitted}:
        model = teacher.removeprefix("timm/")
        assert timm.is_model_pretrained(model) and timm.get_pretrained_cfg(model).num_classes == 1000


@drawn
def test_the_cost_is_that_of_the_settings(name):
    text = " ".join(header(file_of(name))).split("Cost: ")[1]
    config, ipc, _ = read(own_commands(name)[0])
    images = ipc * CLASSES[config.source]
    samples = images * getattr(config, "pool_factor", 1)
    model = "that transformer" if config.source in SIDES else "MAR-base" if config.generator == MAR_BASE else "DiT-XL/2"
    steps = config.sample_steps or DEFAULTS["sample_steps"]
    passes = f"{samples:,} samples x {steps} steps x 2 (guidance) = {samples * steps * 2:,} forward passes of {model}"
    assert f"{passes} at IPC {ipc}," in text
    assert steps == (32 if model == "MAR-base" else 50)
    if config.source in SIDES:
        fit = config
        if config.generator != "auto":  # then the first command of all fits it
            fit, _, folder = read(next(blocks(file_of(name))).commands[0])
            assert folder == config.generator and fit.source == config.source
        steps = f"{fit.fit_vae_steps} optimiser steps of the autoencoder and {fit.fit_dit_steps:,} of the transformer"
        assert f"{steps}, of {fit.fit_batch_size} images each" in text
    if isinstance(config, MinimaxConfig):
        assert config.tuning_epochs == config.tuning_batch_size == 8
        count = {10: "13,000", 100: "130,000", 1000: "1,281,000"}[CLASSES[config.source]]
        assert f"about {count} images " in text and f"so about {count} optimiser steps." in text
    if isinstance(config, DgsConfig):
        assert f"ResNet-50 for each of them and of about {CLASSES[config.source] * 1300:,} real images" in text
    if isinstance(config, PsrConfig):
        assert config.kl_steps == 4
        assert "the last 4 steps of each" in text
    if isinstance(config, (Cao2Config, PsrConfig)):
        assert config.refine_steps == 100
        assert f"{images:,} images x 100 steps = {images * 100:,} forward and backward passes" in text


def size_on_disk(count):
    unit, scale = next((unit, scale) for unit, scale in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)) if count >= scale)
    return f"{count / scale:.{1 if count / scale < 10 else 0}f} {unit}"


@recovered
def test_the_cost_of_recovery_is_that_of_the_settings(name):
    source, method = name.split("/")
    text = " ".join(header(file_of(name))).split("Cost: ")[1]
    config, ipc, _ = read(own_commands(name)[0])
    images, steps, classes = ipc * CLASSES[source], config.recover_steps, CLASSES[source]
    passes = f"{images:,} images x {steps:,} steps = {images * steps:,} forward and backward passes of one image"
    together = min(classes, config.recover_batch_size) if method == "sre2l" else config.classes_at_a_time * ipc
    assert f"{passes} at IPC {ipc}, and in proportion to it; {together} images at a time" in text
    assert ("the teacher, once for all IPC" in text) == (source in SIDES)
    if source in SIDES:  # then the first command of all trains it
        fit, _, folder = read(next(blocks(file_of(name))).commands[0])
        assert (fit.source, fit.network, folder) == (source, "resnet-18-bn", config.teacher)
        assert f"the teacher, once for all IPC: {fit.epochs} epochs of {REAL[source]} images." in text
    assert ("statistics" in text) == (method != "sre2l")
    if method != "sre2l":
        layers = [module.num_features for module in resnet18().modules() if isinstance(module, nn.BatchNorm2d)]
        size = 4 * sum(2 * d + (d * d if method == "deda" else 0) for d in layers)
        measured = f"one forward pass of ResNet-18 for each of {REAL[source]} real images, and"
        assert f"{measured} {size_on_disk(size)} per class on disk, {size_on_disk(size * classes)} in all." in text


@recovered
def test_settings_of_recovery_are_the_papers(name):
    source, method = name.split("/")
    small, cifar = source in SIDES, "cifar" in source
    for config, ipc, _ in map(read, own_commands(name)):
        assert config.protocol == ("sre2l" if method == "sre2l" or cifar else "lpld")  # LPLD has no CIFAR
        assert f"protocol {config.protocol}." in " ".join(header(file_of(name)))
        assert config.teacher == (f"outputs/{source}-teacher" if small else "auto")
        assert config.recover_steps == (1000 if cifar else 4000)
        assert config.recover_learning_rate == (0.1 if small else 0.25)
        assert (config.image_size, config.view_epochs) == (None, None)
        assert (config.smallest_crop, config.flips) == ((1, "no") if cifar else (0.08, "yes"))  # SRe2L's codes
        assert (config.largest_roll, config.roll_both_ways) == (4 if small else 32, source == "tiny-imagenet")
        if method == "deda":
            assert (config.gamma, config.lambda_var, config.lambda_cov) == (50, 0.2, 4)
        else:
            assert (config.statistics_weight, config.first_layer_weight) == (0.05 if small else 0.01, 10)
        if method == "lpld":
            assert (config.class_statistics, config.moving_batch_size) == ("moving", 256 if small else 64)
        if method == "sre2l":
            assert config.recover_batch_size == 100
        else:
            assert config.classes_at_a_time == (10 if cifar else 100 // ipc)


@drawn
def test_settings_are_the_papers(name):
    source, method = name.split("/")
    for config in (read(command)[0] for command in own_commands(name)):
        soft = "cao2" in method or source in ("imagenet100", "imagenet1k")
        assert config.protocol == ("kd" if "psr" in method else "rded-soft" if soft else "idc-hard")
        assert config.repeats == 3
        guidance = config.guidance_scale or DEFAULTS["guidance_scale"]
        assert guidance == (2.7 if "cao2" in method or source in SIDES else 4.0)
        own = source in SIDES or config.generator == MAR_BASE
        decoder = (None, None) if own else (3, "stabilityai/sd-vae-ft-mse")
        assert (config.guided_channels, config.vae, config.vae_revision) == (*decoder, None)
        if method == "minimax":
            assert config.classes_per_phase == (10 if CLASSES[source] > 10 else None) and config.tuning_images is None
            assert (config.lambda_r, config.lambda_d, config.tuning_learning_rate) == (0.002, 0.008, 1e-3)
        if "cao2" in method:
            assert config.regularization == "linf"
            assert config.pool_factor == (4 if name in ("imagewoof/cao2", "imagenet1k/cao2") else 2)
            assert config.max_timestep_fraction == (0.125 if name == "imagenet100/cao2" else 0.25)
            assert (config.order, config.fill) == ("auto", "random")
        if method in ("cao2", "cao2-mar"):
            assert config.condition == ("true" if source == "imagenette" else "null")
        if method == "cao2-minimax":
            assert config.condition == ("null" if (source, config.ipc) == ("imagewoof", 10) else "true")
        if method in ("dgs", "cao2-minimax", "psr-minimax"):
            assert config.generator == f"outputs/{source}-ipc10-minimax/generator"
        if method == "dgs":
            assert (config.teacher, config.pool_factor) == ("timm/resnet50.tv_in1k", 5)
            assert (config.distribution, config.transform, config.similarity_weight) == ("scale", "log", 0.5)
            assert config.threshold_range == "pool"
        if method in ("cao2", "cao2-minimax", "dgs"):
            resize = 256 if method == "dgs" else None
            assert (config.selector, config.selector_resize, config.judged_over) == ("auto", resize, "all")
        if "psr" in method:
            assert config.teacher == ("auto" if "cifar" in source else "timm/convnext_base.fb_in1k")
            assert (config.pool_factor, config.temperature, config.view_epochs) == (2, 1.5, 0)
            assert (config.reliability_weight, config.entropy_weight, config.diversity_weight) == (None,) * 3  # by IPC
            assert (config.refine_learning_rate, config.kl_weight) == (0.01, 0.5)
            assert (config.kl_weight_min, config.kl_weight_max) == (0.1, 2.0)


def test_the_two_files_for_cifar10_fit_the_same_generator():
    (psr, *_), (cao2, *_) = own_commands("cifar10/psr"), own_commands("cifar10/cao2-small")
    assert options(read(psr)[0], GeneratorFitOptions) == options(read(cao2)[0], GeneratorFitOptions)


@pytest.mark.parametrize(
    ("name", "ipc", "numbers"),
    [
        ("imagewoof/plain", 100, "ConvNet-6 53.4 ± 0.3, ResNetAP-10 58.3 ± 0.8, ResNet-18 58.9 ± 1.3"),
        ("imagewoof/minimax", 10, "ConvNet-6 37.0 ± 1.0, ResNetAP-10 39.2 ± 1.3, ResNet-18 37.6 ± 0.9"),
        ("imagewoof/minimax", 50, "ConvNet-6 53.9 ± 0.6, ResNetAP-10 56.3 ± 1.0, ResNet-18 57.1 ± 0.6"),
        ("imagewoof/minimax", 50, "ResNet-18 67.0 ± 1.8, ResNet-50 64.3 ± 0.9, ResNet-101 62.7 ± 1.6"),
        ("imagewoof/difffit", 50, "ResNetAP-10 51.0 ± 0.9"),
        ("imageidc/difffit", 10, "ResNetAP-10 53.5 ± 0.2"),
        ("imageidc/plain", 10, "ResNetAP-10 54.1 ± 0.4"),
        ("imageidc/minimax", 50, "ResNetAP-10 69.6 ± 0.2"),
        ("imagenette/minimax", 20, "ResNetAP-10 66.8 ± 0.4"),
        ("imagenet1k/plain", 50, "ResNet-18 52.9 ± 0.6"),
        ("imagenet1k/minimax", 10, "ResNet-18 44.3 ± 0.5"),
        ("imagewoof/cao2", 10, "ResNet-18 45.6 ± 1.4, ResNet-50 40.1 ± 0.1, ResNet-101 36.5 ± 1.4"),
        ("imagenette/cao2", 1, "ResNet-18 40.6 ± 0.6, ResNet-50 33.5 ± 2.1, ResNet-101 32.7 ± 2.5"),
        ("imagenet100/cao2", 1, "ResNet-18 8.8 ± 0.4, ResNet-50 7.3 ± 0.4, ResNet-101 6.6 ± 0.4"),
        ("imagenet100/minimax", 50, "ResNet-18 63.9 ± 0.1, ResNet-50 67.4 ± 0.3, ResNet-101 67.4 ± 0.6"),
        ("imagenet1k/cao2", 50, "ResNet-18 60.0 ± 0.0, ResNet-50 65.5 ± 0.1, ResNet-101 66.2 ± 0.1"),
        ("imagewoof/cao2-minimax", 10, "ResNet-18 45.7 ± 1.5"),
        ("imagenette/cao2-minimax", 50, "ResNet-18 85.1 ± 1.0"),
        ("imagewoof/dgs", 10, "ConvNet-6 35.1 ± 0.5, ResNetAP-10 37.4 ± 0.3, ResNet-18 35.9 ± 0.6"),
        ("imagewoof/dgs", 50, "ConvNet-6 52.0 ± 0.6, ResNetAP-10 57.1 ± 0.9, ResNet-18 54.9 ± 0.1"),
        ("imagenette/dgs", 20, "ResNetAP-10 66.9 ± 0.5"),
        ("imageidc/dgs", 50, "ResNetAP-10 74.2 ± 0.7"),
        ("imagewoof/psr", 1, "ConvNet-6 18.9 ± 0.4, ResNetAP-10 22.8 ± 1.2, ResNet-18 20.7 ± 0.5"),
        ("imagewoof/psr", 50, "ConvNet-6 56.6 ± 0.7, ResNetAP-10 58.8 ± 0.6, ResNet-18 57.3 ± 1.8"),
        ("imagewoof/psr-minimax", 100, "ConvNet-6 68.7 ± 1.2, ResNetAP-10 72.6 ± 1.1, ResNet-18 69.8 ± 1.4"),
        ("imagenette/psr", 50, "ResNetAP-10 78.7 ± 1.1"),
        ("imagenette/psr-minimax", 10, "ResNetAP-10 63.1 ± 1.9"),
        ("imageidc/psr", 20, "ResNetAP-10 62.7 ± 0.6"),
        ("imageidc/psr-minimax", 50, "ResNetAP-10 70.8 ± 1.4"),
        ("cifar10/psr", 10, "ConvNet-3 45.7 ± 0.6"),
        ("cifar100/psr", 50, "ConvNet-3 56.8 ± 0.5"),
        ("tiny-imagenet/psr", 1, "ConvNet-4 15.6 ± 0.2"),
        ("cifar10/deda", 10, "ResNet-18 38.2 ± 0.4"),
        ("cifar10/deda", 50, "ResNet-18 60.2 ± 0.5"),
        ("cifar10/sre2l", 10, "ResNet-18 27.2 ± 0.4"),
        ("cifar100/deda", 50, "ResNet-18 65.1 ± 0.4"),
        ("cifar100/sre2l", 50, "ResNet-18 52.2 ± 0.3"),
        ("tiny-imagenet/deda", 10, "ResNet-18 44.5 ± 0.6"),
        ("tiny-imagenet/lpld", 50, "ResNet-18 48.8 ± 0.4"),
        ("tiny-imagenet/sre2l", 100, "ResNet-18 49.7 ± 0.3"),
        ("imagenet1k/deda", 10, "ResNet-18 36.4 ± 0.7, ResNet-50 42.5 ± 0.5, ResNet-101 46.3 ± 0.5"),
        ("imagenet1k/deda", 100, "ResNet-18 58.4 ± 0.3, ResNet-50 65.4 ± 0.3, ResNet-101 64.9 ± 0.3"),
        ("imagenet1k/sre2l", 100, "ResNet-18 ?, ResNet-50 61.0 ± 0.4, ResNet-101 62.8 ± 0.2"),
        ("imagenet1k/lpld", 10, "ResNet-18 34.6 ± 0.9, ResNet-50 ?"),
        ("imagenet1k/lpld", 100, "ResNet-18 ?, ResNet-50 65.7†"),
    ],
)
def test_numbers_copied_from_the_papers_by_hand(name, ipc, numbers):
    assert (ipc, numbers) in [(block.ipc, block.text) for block in blocks(file_of(name))]
