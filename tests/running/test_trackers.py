"""What trackers are told: losses of the loops and accuracies of the students, at steps that ascend over a whole run."""

import dataclasses
import json

import pytest
import tiny_tuning
import torch
from accelerate.tracking import GeneralTracker

from distill_hub.config import InputError, resolved
from distill_hub.options import tracking
from distill_hub.options.fit_classifier import FitClassifierConfig
from distill_hub.options.tracking import TrackingOptions
from distill_hub.recovery import recover as recovery
from distill_hub.running import trackers as module
from distill_hub.running.checkpoint import steps
from distill_hub.running.dry_run import open_run
from distill_hub.running.trackers import STARTS
from distill_hub.teachers.fit import fit_classifier
from distill_hub.training.protocols import protocol
from distill_hub.training.settings import Task
from distill_hub.training.train import TrainingSet, train_students


class Notes(GeneralTracker):
    """A tracker of one's own, as Accelerate takes it."""

    name, requires_logging_directory, main_process_only = "notes", False, True

    def __init__(self):
        super().__init__()
        self.told, self.settings, self.ended = [], None, 0

    @property
    def tracker(self):
        return self.told

    def start(self):
        pass

    def store_init_configuration(self, values):
        self.settings = values

    def log(self, values, step=None, **_):
        self.told += [(name, step, value) for name, value in values.items()]

    def finish(self):
        self.ended += 1


@pytest.fixture
def notes(monkeypatch):
    own = Notes()
    monkeypatch.setattr(module, "filter_trackers", lambda names, _: [own] * len(names))
    return own


def opened(folder, **how):
    return open_run(folder, {"a": 1, "b": None}, overwrite=False, dry_run=False, log_with="notes", **how)


def walk(run, name, total=50, *, until=None, row=lambda step: step):
    """A loop that is killed before step `until`."""
    state = {"losses": torch.zeros(total)}
    for step in steps(run, run.output_dir / name, total, state, title="match", row=row):
        if step == until:
            return
        if row(step) is not None:
            state["losses"][row(step)] = 10 * row(step)


def test_loops_follow_on_each_other_however_often_the_run_is_killed(notes, tmp_path):
    run = opened(tmp_path / "out")
    assert notes.settings == {"a": 1, "b": "None"} | {k: v for k, v in notes.settings.items() if k not in "ab"}
    walk(run, "zero")
    walk(run, "one", until=30)
    first = [("match/loss", 20, 95.0), ("match/loss", 40, 295.0), ("match/loss", 50, 445.0), ("match/loss", 70, 95.0)]
    assert notes.told == first  # the means of 0, 10, ..., 190, and so on
    run.place.leave()
    run.trackers.close()
    assert notes.ended == 1
    notes.told.clear()
    run = opened(tmp_path / "out")  # as after a kill; where a loop begins is known
    walk(run, "two", 20)
    walk(run, "one")
    assert notes.told == [("match/loss", 120, 95.0), *[(n, step + 50, value) for n, step, value in first[:3]]]
    run.end()
    assert notes.ended == 2


def test_a_loop_whose_steps_are_not_its_losses_says_which_are(notes, tmp_path):
    run = opened(tmp_path / "out")
    walk(run, "idc", 25, row=lambda step: None if step < 22 else step - 22)
    assert notes.told == [("match/loss", 25, 10.0)]  # of 0, 10 and 20
    run.end()


def test_nothing_is_logged_unless_it_is_asked_for(notes, tmp_path):
    run = open_run(tmp_path / "out", {}, overwrite=False, dry_run=False)
    walk(run, "zero")
    assert not notes.told and not (run.output_dir / ".run" / STARTS).exists()
    run.end()
    dry = open_run(tmp_path / "dry", {}, overwrite=False, dry_run=True, log_with="notes")
    walk(dry, "zero")
    dry.end()
    assert not notes.told


def test_students_are_logged_with_the_accuracies_of_their_looks():
    images, labels = torch.rand(20, 3, 8, 8, generator=torch.Generator().manual_seed(0)), torch.arange(20) % 2
    images[labels == 1] += 0.5
    task = Task(20, 2, 8, True, ((0.5,) * 3, (0.5,) * 3), "convnet-1")
    settings = dataclasses.replace(protocol("quick").settings(task), epochs=120, looks=(1, 75, 120), batch_size=20)
    told = []
    (trained,) = train_students(
        "convnet-1-w16", [TrainingSet(images, labels)], (images, labels), 2, settings, [0], log=lambda *own: told.append(own)
    )
    assert [epoch for epoch, _ in told] == sorted({1, 75, *range(2, 121, 2)})  # a hundred times at the most, and looks
    looks = {epoch: values["accuracy"] for epoch, values in told if "accuracy" in values}
    assert looks == dict(zip((1, 75, 120), trained.curve, strict=True))
    assert told[-1][0] == 120 and told[0][1]["loss"] > told[-1][1]["loss"] > 0


def test_a_classifier_is_logged_and_is_no_other_for_it(notes, tmp_path, digits):
    config = FitClassifierConfig(
        network="convnet-1-w16", image_size=8, epochs=2, batch_size=256, output_dir=tmp_path / "it", log_with="notes"
    )
    assert "log_with" not in resolved(config)
    fit_classifier(digits, config).end()
    assert [(name, step) for name, step, _ in notes.told] == [("fit/loss", 5), ("fit/loss", 10)]
    assert json.loads((tmp_path / "it" / "config.json").read_text())["distill_hub"]["steps"] == 10


def test_fine_tuning_and_recovery_are_logged(notes, tmp_path, monkeypatch):
    tuning = tiny_tuning.build(tmp_path / "out")
    tuning.run.trackers.open("notes", "x", {}, None)
    tuning.train()
    shares = [(name, value) for name, step, value in notes.told if step == 10]
    expected = tuning.losses.mean(0).tolist()
    assert shares == [(f"fine-tune/{name}", pytest.approx(value)) for name, value in zip(
        ("diffusion", "representativeness", "diversity"), expected, strict=True)]  # fmt: skip
    tuning.run.end()

    told = []
    teacher = type("Grey", (), {"device": torch.device("cpu"), "mean": (0.5,) * 3, "std": (0.5,) * 3})
    monkeypatch.setattr(recovery, "CHECK_STEPS", 4)
    _, losses = recovery.recover(
        teacher, [lambda x: x.mean((1, 2, 3))], [1], size=4, steps=6, learning_rate=0.1, views_seed=0,
        views=recovery.Views(1.0, False, (0, 0)), log=lambda step, values: told.append((step, values["loss"])),
    )  # fmt: skip
    assert told == [(4, pytest.approx(losses[:4].mean().item())), (6, pytest.approx(losses[4:].mean().item()))]


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("tensorbord", "known: aim, .*did you mean 'tensorboard'"),
        ("tensorbord,", "known: aim"),
        ("wandb, wandb", "it names wandb twice"),
        ("tensorboard", "'tensorboard' cannot be used; it is not installed here; `pip install tensorboard`"),
    ],
)
def test_a_tracker_that_is_not_there_is_one_line_before_any_work(monkeypatch, name, line):
    monkeypatch.setattr(tracking, "find_spec", lambda asked: None if name == "tensorboard" else asked)
    with pytest.raises(InputError, match=f"log_with: .*{line}"):
        TrackingOptions(log_with=name).check_settings()


def test_a_tracker_that_does_not_start_is_one_line(notes, monkeypatch, tmp_path):
    def start():
        raise PermissionError("log in\nfirst")

    monkeypatch.setattr(notes, "start", start)
    with pytest.raises(InputError, match=r"log_with: 'notes' .*it does not start \(PermissionError: log in first\)"):
        opened(tmp_path / "out")
    monkeypatch.setattr(module, "filter_trackers", lambda names, _: [])
    with pytest.raises(InputError, match="one of them is not installed"):
        opened(tmp_path / "other")
