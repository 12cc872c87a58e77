"""recipes/experts.py and recipes/mtt.py end to end; what they compute is tested in tests/matching."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from helpers import refused, run_here, unscored
from processes import run_python
from safetensors.torch import load_file, save_file

from distill_hub import load_distilled
from distill_hub.artifact.cost import cost_parts
from distill_hub.artifact.experts import ExpertsRecord, load_experts
from distill_hub.data.sources import load_source
from distill_hub.networks.build import build

EXPERTS = ["--network", "convnet-2-w8", "--expert_count", "3", "--expert_epochs", "3"]
SMALL = ["--ipc", "2", "--teacher_epochs", "4", "--students", "convnet-1-w16", "--repeats", "1", "--view_epochs", "0"]
MATCHING = [*SMALL, "--match_steps", "6", "--student_steps", "4", "--max_start", "2"]


class Killed(BaseException):
    """What no recipe catches, as SIGKILL."""


def hash_of(folder: Path) -> str:
    return json.loads((folder / "manifest.json").read_text())["content_sha256"]


@pytest.fixture(scope="module")
def experts(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("experts") / "digits"
    run_here("recipes/experts.py", *EXPERTS, "--output_dir", str(folder))
    return folder


@pytest.fixture(scope="module")
def made(experts, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("matched") / "mtt"
    run_here("recipes/mtt.py", *MATCHING, "--experts", str(experts), "--output_dir", str(folder))
    return folder


def test_experts_are_as_their_record_says(experts):
    record = ExpertsRecord.read(experts / "experts.json")
    assert ExpertsRecord.model_validate_json(record.to_json()) == record
    assert (record.network, record.epochs, record.kept, record.image_size) == ("convnet-2-w8", 3, [0, 1, 2, 3], 16)
    assert record.classes == [str(digit) for digit in range(10)] and record.cost.seconds > 0
    assert [0.2 < expert.test_accuracy <= 1 for expert in record.experts] == [True] * 3
    assert len({expert.seed for expert in record.experts}) == len({expert.sha256 for expert in record.experts}) == 3
    # The last epoch's weights, loaded without this package's code, have the accuracy on record.
    network, source = build("convnet-2-w8", 10, 16), load_source("digits")
    network.load_state_dict({name: weights[-1] for name, weights in load_file(experts / "expert-001.safetensors").items()})
    mean, std = (torch.tensor(values).view(1, 3, 1, 1) for values in (record.mean, record.std))
    with torch.inference_mode():
        predicted = network((source.test.pixels(None, 16) / 255 - mean) / std).argmax(1).numpy()
    assert (predicted == source.test.labels).mean() == record.experts[1].test_accuracy
    flat = load_experts(str(experts)).weights(1, 3)
    assert torch.equal(flat, torch.cat([weight.detach().flatten() for weight in network.parameters()]))
    card = (experts / "README.md").read_text()
    assert "--experts digits" in card and "convnet-2-w8" in card and "epochs 1, 2, 3" in card


def test_two_processes_train_the_same_experts(experts, tmp_path):
    done = run_python("recipes/experts.py", *EXPERTS, "--output_dir", str(tmp_path / "two"), world=2)
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (ExpertsRecord.read(folder / "experts.json") for folder in (experts, tmp_path / "two"))
    assert one.sha256 == two.sha256 and two.environment.processes == 2


def test_experts_that_were_cut_short_come_to_the_same(experts, tmp_path, monkeypatch):
    import distill_hub.matching.experts as experts_module
    import distill_hub.running.checkpoint as checkpoint

    taken, augment = [], experts_module.augment

    def counted(*how):
        taken.append(1)
        if len(taken) == 90:
            raise Killed
        return augment(*how)

    monkeypatch.setattr(checkpoint, "SAVED_AFTER", -1.0)
    monkeypatch.setattr(experts_module, "augment", counted)
    words = [*EXPERTS, "--output_dir", str(tmp_path / "cut")]
    with pytest.raises(Killed):
        run_here("recipes/experts.py", *words)
    run_here("recipes/experts.py", *words)
    one, cut = (ExpertsRecord.read(folder / "experts.json") for folder in (experts, tmp_path / "cut"))
    assert one.sha256 == cut.sha256
    # 21 steps an epoch; every expert sees training and test images at its end, in 6 and 2 batches.
    assert len(taken) == 3 * (3 * 21 + 8) + 1


def test_the_set_says_what_it_is(made, experts):
    found = load_distilled(made)
    manifest, rows = found.manifest, found.dataset
    assert manifest.name == "digits-ipc2-mtt" and manifest.method.config["match_steps"] == 6
    assert manifest.soft_labels == "teacher" and manifest.experts.sha256 == load_experts(str(experts)).record.sha256
    assert (manifest.experts.id, manifest.experts.experts, manifest.experts.epochs) == ("digits", 3, 3)
    assert cost_parts(manifest)["experts"].seconds > 0
    # The experts' own settings are on their record; the defaults of others would be a false claim.
    assert {name: value for name, value in manifest.method.config.items() if "expert_" in name and value is None}.keys() == {
        *("expert_count", "expert_epochs", "expert_batch_size", "expert_learning_rate")
    }
    notes = manifest.method.notes
    assert notes["mean_loss_of_first_and_last_tenth"][1] > 0 and 0 < notes["student_lr"] != 0.1
    train = load_source("digits").train
    assert [train.labels[row] for row in rows["seed"][:]] == rows["label"][:] == [label for label in range(10) for _ in "ab"]
    assert "**Experts:** 3 of digits (convnet-2-w8), 3 epochs each" in (made / "README.md").read_text()


def test_two_processes_make_the_same_set(made, experts, tmp_path):
    words = [*MATCHING, "--experts", str(experts), "--output_dir", str(tmp_path / "two")]
    done = run_python("recipes/mtt.py", *words, world=2)
    assert done.returncode == 0, done.stderr[-3000:]
    assert hash_of(tmp_path / "two") == hash_of(made)


def test_a_matching_that_was_cut_short_comes_to_the_same(made, experts, tmp_path, monkeypatch):
    import distill_hub.running.checkpoint as checkpoint
    from distill_hub.matching import mtt

    taken, match = [], mtt.match_trajectory

    def counted(*how, **more):
        taken.append(1)
        if len(taken) == 4:
            raise Killed
        return match(*how, **more)

    monkeypatch.setattr(checkpoint, "SAVED_AFTER", -1.0)
    monkeypatch.setattr(mtt, "match_trajectory", counted)
    words = [*MATCHING, "--experts", str(experts), "--output_dir", str(tmp_path / "cut")]
    with pytest.raises(Killed), unscored():
        run_here("recipes/mtt.py", *words)
    with unscored():
        run_here("recipes/mtt.py", *words)
    assert len(taken) == 7 and hash_of(tmp_path / "cut") == hash_of(made)


def test_learned_labels_are_the_sets_own(experts, tmp_path):
    words = [*MATCHING, "--experts", str(experts), "--learn_labels", "--ema_decay", "0.5", "--protocol", "dsa-soft"]
    words += ["--label_learning_rate", "20", "--output_dir", str(tmp_path / "set")]
    with unscored():
        run_here("recipes/mtt.py", *words)
    found = load_distilled(tmp_path / "set")
    assert found.manifest.name == "digits-ipc2-datm" and found.manifest.soft_labels == "learned"
    soft, labels = torch.tensor(found.dataset["soft_label"][:]), torch.tensor(found.dataset["label"][:])
    assert found.manifest.method.notes["labels_moved"] == int((soft.argmax(1) != labels).sum())
    assert "optimised together with the images" in (tmp_path / "set" / "README.md").read_text()


def test_whitened_sets_follow_experts_that_saw_whitened_images(experts, tmp_path, capfd):
    whitened = ["--pixels", "zca", "--output_dir", str(tmp_path / "set")]
    line = refused(capfd, "recipes/mtt.py", *MATCHING, "--experts", str(experts), *whitened)
    assert "their whitening is None" in line
    run_here("recipes/experts.py", *EXPERTS, "--expert_count", "1", "--whiten", "--output_dir", str(tmp_path / "experts"))
    record = ExpertsRecord.read(tmp_path / "experts" / "experts.json")
    assert record.mean == (0, 0, 0) and record.zca.images == 1297 and record.experts[0].test_accuracy > 0.2
    with unscored():
        run_here("recipes/mtt.py", *MATCHING, "--experts", str(tmp_path / "experts"), *whitened)
    found = load_distilled(tmp_path / "set")
    assert found.manifest.free_pixels.zca == record.zca
    pixels = torch.tensor(found.dataset["pixels"][:])
    assert pixels.min() < 0 and pixels.shape[0] == 20


def test_a_dry_run_says_what_experts_and_matching_take_and_keeps_nothing(tmp_path, capfd):
    words = [*MATCHING, "--network", "convnet-1-w5", "--learn_labels", "--dry_run", "--output_dir", str(tmp_path / "set")]
    run_here("recipes/mtt.py", *words)
    printed = capfd.readouterr().out
    assert "fit experts" in printed and "match" in printed and list(tmp_path.iterdir()) == []


def test_experts_are_fitted_once_for_all_runs(tmp_path):
    words = [*MATCHING, "--network", "convnet-1-w8", "--expert_count", "1", "--expert_epochs", "4"]
    with unscored():
        for name in ("first", "second"):
            run_here("recipes/mtt.py", *words, "--output_dir", str(tmp_path / name))
    first, second = (load_distilled(tmp_path / name).manifest for name in ("first", "second"))
    assert first.content_sha256 == second.content_sha256 and first.experts.id == "fitted on digits"
    stages = [[stage.name for stage in manifest.stages] for manifest in (first, second)]
    assert ["fit experts" in names for names in stages] == [True, False]
    assert first.experts == second.experts


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (("--rate_learning_rate", "1000"), "the student's learning rate becomes"),
        (("--max_start", "3"), "max_start: 3 cannot be used; with expert_stretch 2 epoch 4 is read"),
        (("--network", "convnet-2-w9"), "the experts are convnet-2-w8"),
        (("--network", "convnet-2-bn"), "a network without BatchNorm is needed"),
        (("--normalization", "cifar"), "their mean is"),
        (("--test_fraction", "0.1", "--source", "{digits}"), "their source fingerprint is"),
        (("--experts", "no/such/folder"), "a folder or Hub id of experts with experts.json is needed"),
        (("--min_start", "2"), "min_start: 2 cannot be used"),
    ],
)
def test_what_cannot_be_matched_is_refused_in_one_line(experts, tmp_path, capfd, words, said):
    if "{digits}" in words:
        words = (*words[:-1], str(as_folder(tmp_path / "digits")))
    words = [*MATCHING, "--experts", str(experts), *words, "--output_dir", str(tmp_path / "set")]
    assert said in refused(capfd, "recipes/mtt.py", *words)


def as_folder(folder: Path) -> Path:
    """Save a few digits as a folder of images of the same classes."""
    import PIL.Image

    train = load_source("digits").train
    for label in range(10):
        (folder / str(label)).mkdir(parents=True)
        for row in train.by_class[label][:20]:
            PIL.Image.fromarray(train.pixels([row], 16)[0].permute(1, 2, 0).numpy()).save(folder / str(label) / f"{row}.png")
    return folder


@pytest.mark.parametrize("damage", ["missing", "altered", "another shape", "epochs", "no safetensors"])
def test_damaged_experts_are_refused_in_one_line(experts, tmp_path, capfd, damage):
    folder = tmp_path / "damaged"
    shutil.copytree(experts, folder)
    file, record = folder / "expert-002.safetensors", json.loads((folder / "experts.json").read_text())
    if damage == "missing":
        file.unlink()
    elif damage == "altered":
        file.write_bytes(file.read_bytes()[:-1] + b"\0")
    elif damage == "epochs":
        record["kept"] = [0, 2, 1, 3]
    else:
        weights = {name: tensor[:2].contiguous() for name, tensor in load_file(file).items()}
        file.write_bytes(b"not this") if damage == "no safetensors" else save_file(weights, file)
        import hashlib

        record["experts"][2]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "experts.json").write_text(json.dumps(record))
    line = refused(capfd, "recipes/mtt.py", *MATCHING, "--experts", str(folder), "--output_dir", str(tmp_path / "set"))
    assert ("kept must rise" if damage == "epochs" else "expert-002.safetensors") in line
