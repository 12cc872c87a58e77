"""Students of a team against students of one process."""

import dataclasses
import json
import os
from contextlib import contextmanager

import pytest
import torch
from processes import end_process, start_processes
from safetensors.torch import load_file
from torch import nn

from distill_hub import fitting
from distill_hub.classifiers import Classifier
from distill_hub.data.classes import SourceClass
from distill_hub.data.known import NORMALIZATIONS
from distill_hub.data.sources import load_source
from distill_hub.generating.fit import fit_generator, fit_in_run
from distill_hub.running.machine import start_accelerator
from distill_hub.running.run import Run
from distill_hub.running.seeds import cpu_generator
from distill_hub.teachers.open import fit_settings, open_teacher
from distill_hub.teams.team import at_work, divided
from distill_hub.training.protocols import protocol
from distill_hub.training.settings import Task
from distill_hub.training.subject import HeldOut
from distill_hub.training.train import TrainingSet, train_students

MEMBERS = 2
TINY = {
    "image_size": 16,
    "vae_width": 8,
    "vae_steps": 3,
    "dit_width": 32,
    "dit_layers": 1,
    "dit_steps": 3,
    "batch_size": 7,
    "seed": 0,
}
CASES = {  # protocol, student, and what differs from that protocol; all but the second mix images
    "hard labels": ("idc-hard", "convnet-2-w16", {}),
    "soft labels": ("kd", "convnet-2-w16", {}),
    "a teacher, BatchNorm": ("sre2l", "convnet-2-w16-bn", {"temperature_found": True}),
    "logits, averaged weights": ("edc", "convnet-2-w16-bn", {}),
    "BatchNorms of timm": ("quick", "timm/test_efficientnet", {"batch_size": 23, "looks": (3,)}),
}


def train(name: str, team=None) -> dict:
    """Train a student on 23 images in batches of 5, of which the last has 3; return its state and curve."""
    method, student, changes = CASES[name]
    generator, classes = cpu_generator(1), 3
    images, test = (torch.randint(256, (n, 3, 16, 16), dtype=torch.uint8, generator=generator) for n in (23, 32))
    labels, truth, soft = (
        torch.arange(23) % classes,
        torch.arange(32) % classes,
        torch.rand(23, classes, generator=generator),
    )
    torch.manual_seed(3)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, classes))
    known, names = [SourceClass(str(i), i) for i in range(classes)], ["0", "1", "2"]
    look = {"image_size": 16, "mean": (0.4,) * 3, "std": (0.3,) * 3}
    teacher = Classifier(network, id="t", architecture="t", classes=known, class_names=names, **look)
    rules = protocol(method).settings(Task(23, classes, 16, True, NORMALIZATIONS["imagenet"], student))
    short = {"epochs": 3, "batch_size": 5, "looks": (1, 2, 3), **changes}
    data = TrainingSet(images, labels, soft.softmax(1))
    rules = dataclasses.replace(rules, **short)
    with at_work(team, 23, rules.batch_size) as (team, processes):
        assert processes == (MEMBERS if team else 1)
        (got,) = train_students(student, [data], (test, truth), classes, rules, [4], teacher=teacher, team=team)
    return {"state": got.model.state_dict(), "curve": got.curve}


@contextmanager
def in_double():
    """Compute in float64 what is float32 elsewhere: rounding is far below any mistake then."""
    single = torch.Tensor.float
    torch.Tensor.float = torch.Tensor.double
    torch.set_default_dtype(torch.float64)
    try:
        yield
    finally:
        torch.Tensor.float = single
        torch.set_default_dtype(torch.float32)


def train_all(folder) -> None:
    """Train all students together with the other processes."""
    start_accelerator()
    _, team = divided(1)
    with in_double():
        torch.save({name: train(name, team) for name in CASES}, folder / f"{team.rank}.pt")
    run = Run(folder / "run", {})
    run.map("chunks", range(MEMBERS + 1), members, chunk_size=1, teams=True)
    run.decide((folder / "run" / ".run" / "chunks" / "000001.json").unlink)
    run.map("chunks", range(MEMBERS + 1), members, chunk_size=1, teams=True)
    with in_double():
        fit_all(run, folder)
    run.end()


def fit_all(run, folder) -> None:
    """Fit a teacher and a generator as if the digits were many images."""
    fitting.LARGE = 0
    os.environ["DISTILL_HUB_CACHE"] = str(folder / "cache")
    digits = load_source("digits")
    fit_in_run(run, digits, folder / "generator", "dit", {f"fit_{name}": value for name, value in TINY.items()})
    how = {"teacher": "auto", "teacher_revision": None, "teacher_epochs": 1, "seed": 0}
    open_teacher(run, HeldOut(digits), 16, **how, networks=("convnet-1-w16",))


def members(chunk, team):
    """Count who works on a chunk; a member that is not the first says nothing."""
    count = int(team.summed(torch.ones(1))) if team else 1
    return {"members": torch.tensor([count])} if not (team and team.rank) else {}


@pytest.fixture(scope="module")
def by_a_team(tmp_path_factory):
    folder = tmp_path_factory.mktemp("team")
    started, logs = start_processes(folder / "log", train_all, folder, world=MEMBERS)
    assert [end_process(one, 200) for one in started] == [0] * MEMBERS, [log.read_text() for log in logs]
    return folder, [torch.load(folder / f"{rank}.pt") for rank in range(MEMBERS)]


@pytest.mark.parametrize("name", CASES)
def test_a_team_trains_what_one_process_trains(by_a_team, name):
    with in_double():
        alone = train(name)
    first, *others = [done[name] for done in by_a_team[1]]
    assert first["curve"] == alone["curve"]
    for key, tensor in alone["state"].items():
        torch.testing.assert_close(first["state"][key], tensor, rtol=1e-9, atol=1e-9, msg=lambda m, key=key: f"{key}: {m}")
        assert all(other["state"][key].equal(first["state"][key]) for other in others), key


def test_chunks_that_are_fewer_than_processes_are_made_by_teams_and_kept(by_a_team):
    folder, _ = by_a_team
    run = Run(folder / "run", {})
    made = run.map("chunks", range(MEMBERS + 1), lambda chunk, team: pytest.fail("it is there"), chunk_size=1, teams=True)
    assert made.rows(0, MEMBERS + 1)["members"].tolist() == [1, MEMBERS, 1]
    facts = json.loads((folder / "run" / ".run" / "chunks" / "000001.json").read_bytes())
    assert facts["core_seconds"] >= 0 and facts["seconds"] > 0


def test_models_of_large_sources_are_fitted_by_all_to_what_one_fits(by_a_team, tmp_path):
    folder, _ = by_a_team
    start_accelerator()
    digits = load_source("digits")
    settings = fit_settings(digits, "convnet-1-w16", 16, 1)
    data = TrainingSet(digits.train.pixels(None, 16), torch.from_numpy(digits.train.labels))
    with in_double():
        fit_generator(digits, tmp_path / "generator", **TINY)
        (fitted,) = train_students("convnet-1-w16", [data], None, 10, settings, [0])
    for part in ("vae", "transformer"):
        alone, together = (
            load_file(place / "generator" / part / "diffusion_pytorch_model.safetensors") for place in (tmp_path, folder)
        )
        torch.testing.assert_close(together, alone, rtol=1e-9, atol=1e-9)
    (teacher,) = (folder / "cache").glob("digits-teacher-*/model.safetensors")
    torch.testing.assert_close(load_file(teacher), dict(fitted.model.state_dict()), rtol=1e-9, atol=1e-9)
    costs = [json.loads(file.read_bytes()) for file in (folder / "generator" / "cost.json", teacher.with_name("cost.json"))]
    assert [cost["processes"] for cost in costs] == [MEMBERS] * 2
