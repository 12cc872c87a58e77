"""Rebuilding a set from its manifest: once in a process of its own, the rest on copies of what it left."""

import dataclasses
import hashlib
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import types

import numpy as np
import psutil
import pytest
from accelerate.commands.config.config_args import load_config_from_file
from helpers import ROOT, run_here
from processes import hear_signals

from distill_hub import InputError, load_distilled
from distill_hub.artifact.find import find
from distill_hub.artifact.manifest import Manifest, MethodRecord, ModelRecord, SelectorRecord, StageRecord, TuningRecord
from distill_hub.artifact.package import write_artifact
from distill_hub.cli import main
from distill_hub.config import LOADING, check_settings, parse, resolved
from distill_hub.generating.kinds import FITTED_KINDS
from distill_hub.launching import reproduce as module
from distill_hub.launching.reproduce import Difference, compare, reproduce
from distill_hub.launching.words import make_words
from distill_hub.options.cao2 import Cao2Config
from distill_hub.options.commands import ReproduceConfig
from distill_hub.options.coresets import CoresetConfig
from distill_hub.options.minimax import MinimaxConfig
from distill_hub.options.rded import RdedConfig
from distill_hub.options.shared import PixelOptions
from distill_hub.options.sre2l import Sre2lConfig

GPUS = str(ROOT / "recipes" / "accelerate" / "multi_gpu.yaml")
HOW = ("--mirrored=no", "--normalization=imagenet")  # of the digits, where their place does not tell
WORDS = ["--ipc", "2", "--teacher_epochs", "2", "--view_epochs", "0"]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """Two random real images per class."""
    folder = tmp_path_factory.mktemp("made") / "digits-ipc2-random"
    run_here("recipes/random_real.py", *WORDS, "--score", "no", "--output_dir", str(folder))
    return folder


@pytest.fixture(scope="module")
def rebuilt(made):
    """What its manifest alone gives."""
    lonely = made.parent / "lonely"
    lonely.mkdir()
    for part in ("data", "manifest.json"):
        source = made / part
        shutil.copytree(source, lonely / part) if source.is_dir() else shutil.copy(source, lonely / part)
    folder = made.parent / "rebuilt"
    assert reproduce(ReproduceConfig(location=str(lonely), output_dir=folder)).identical
    return folder


@pytest.fixture
def copy(made, tmp_path):
    return shutil.copytree(made, tmp_path / "copy")


@pytest.fixture
def manifest(made):
    return Manifest.read(made / "manifest.json")


def edit(folder, change) -> None:
    """Change the manifest's fields in place."""
    fields = json.loads((folder / "manifest.json").read_text())
    change(fields)
    (folder / "manifest.json").write_text(json.dumps(fields))


def line(manifest, *, published=False, **fields) -> list[str]:
    config = ReproduceConfig(location="set", **fields)
    return make_words(manifest, config, config.output_dir or "out", published=published)


def options(words: list[str]) -> set[str]:
    """Words of the recipe, less those that every rebuild has."""
    return set(words[words.index("--mixed_precision") + 2 :]) - {"--score=no", "--view_epochs=0", "--output_dir=out"}


def told(monkeypatch, capsys, folder, rebuilt, *words) -> tuple[int, str]:
    """Return code and output of the command, where the rebuild lies there already."""
    monkeypatch.setattr(module, "_run", lambda words: None)
    monkeypatch.setattr(sys, "argv", ["distill-hub", "reproduce", str(folder), "--output_dir", str(rebuilt), *words])
    capsys.readouterr()
    try:
        main()
    except SystemExit as exit:
        return exit.code, "".join(capsys.readouterr())
    return 0, "".join(capsys.readouterr())


def test_a_rebuild_that_is_killed_says_so_and_what_may_help(tmp_path, monkeypatch):
    script = tmp_path / "killed"
    script.write_text("#!/bin/sh\nkill -9 $$\n")
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    with pytest.raises(InputError, match=r"^command: .* it was killed: most likely memory ran out"):
        module._run(["distill-hub", "make", "random_real"])


def test_a_recipe_that_refuses_its_input_has_the_last_word(tmp_path, capfd):
    with pytest.raises(SystemExit) as ended:
        module._run(["distill-hub", "make", "random_real", "--ipc", "0"])
    lines = capfd.readouterr().err.splitlines()
    assert ended.value.code == 2 and [line[:11] for line in lines] == ["error: ipc:"]


def test_a_folder_that_holds_something_else_is_refused_before_the_recipe_starts(made, tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_run", lambda words: pytest.fail("it was started"))
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(InputError, match=r"^output_dir: .* it holds files that are not a run's"):
        reproduce(ReproduceConfig(location=str(made), output_dir=tmp_path))


def test_the_rebuild_is_identical_and_so_is_every_step(made, rebuilt):
    found = compare(find(made), rebuilt)
    assert found.identical and found.first is None and found.difference is None and found.environment == {}
    assert {step.name: step.verdict for step in found.steps} == dict.fromkeys(("source", "teacher", "stage select"), "same")
    one, other = load_distilled(made), load_distilled(rebuilt)
    np.testing.assert_array_equal(one.pixels, other.pixels)
    np.testing.assert_array_equal(one.soft_labels, other.soft_labels)


def test_a_record_without_its_images_is_compared_by_hashes(copy, rebuilt, monkeypatch, capsys, tmp_path):
    shutil.rmtree(copy / "data")
    code, text = told(monkeypatch, capsys, copy, rebuilt)
    assert code == 0 and "Identical: 20 images and their labels hash to " in text
    code, text = told(monkeypatch, capsys, copy, rebuilt, "--print_command")
    assert code == 0 and text.startswith("distill-hub make random_real --cpu ")
    edit(copy, lambda fields: fields.update(content_sha256="0" * 64))
    edit(copy, lambda fields: next(s for s in fields["stages"] if s["name"] == "select").update(sha256="0" * 64))
    code, text = told(monkeypatch, capsys, copy, rebuilt, "--json", str(tmp_path / "found.json"))
    text, found = " ".join(text.split()), json.loads((tmp_path / "found.json").read_text())
    assert code == 1 and "The first difference is in the stage select." in text
    assert "Different: the images of this record are not here, so only hashes were compared." in text
    assert found["without_images"] and not found["identical"] and found["difference"] is None


def test_the_hash_of_a_stage_is_what_the_format_says(made, manifest):
    files = sorted((made / ".run" / "select").glob("*.safetensors"))
    assert len(files) == 10
    hashes = "".join(hashlib.sha256(file.read_bytes()).hexdigest() for file in files)
    (stage,) = [stage for stage in manifest.stages if stage.name == "select"]
    assert stage.sha256 == hashlib.sha256(hashes.encode()).hexdigest()
    assert all(stage.sha256 is None for stage in manifest.stages if stage.name.startswith("fit"))


def test_one_changed_pixel_is_found(copy, rebuilt, manifest, monkeypatch, capsys):
    artifact = load_distilled(copy)
    images = artifact.pixels.transpose(0, 2, 3, 1).copy()
    images[5, 3, 4, 1] = images[5, 3, 4, 1] + 7 if images[5, 3, 4, 1] < 128 else images[5, 3, 4, 1] - 7
    rows = [
        {"image": image, "label": label, "soft_label": soft, "confidence": float(soft[label]), "seed": seed}
        for image, label, soft, seed in zip(
            images, artifact.labels, artifact.soft_labels, artifact.dataset["seed"], strict=True
        )
    ]
    names = manifest.class_names
    write_artifact(copy, rows, lambda sha: manifest.model_copy(update={"content_sha256": sha}), class_names=names)
    found = compare(find(copy), rebuilt)
    assert not found.identical and found.first is None
    assert found.difference == Difference(images=1, largest=7, mean=7 / (20 * 16 * 16 * 3), labels=0, soft_label=0.0)
    code, text = told(monkeypatch, capsys, copy, rebuilt)
    assert code == 1
    assert "Different: 1 of 20 images, their pixels by at most 7 of 255" in text and "No stage differs" in text


def test_changed_labels_are_counted(copy, rebuilt, manifest):
    artifact = load_distilled(copy)
    images, seeds = artifact.pixels.transpose(0, 2, 3, 1).copy(), artifact.dataset["seed"]
    labels, soft = artifact.labels.copy(), artifact.soft_labels.copy()
    labels[[1, 2]] = labels[[2, 1]]
    soft[:] = 0.0
    soft[:, 0] = 1.0
    rows = [
        {"image": image, "label": label, "soft_label": row, "confidence": float(row[label]), "seed": seed}
        for image, label, row, seed in zip(images, labels, soft, seeds, strict=True)
    ]
    names = manifest.class_names
    write_artifact(copy, rows, lambda sha: manifest.model_copy(update={"content_sha256": sha}), class_names=names)
    before = load_distilled(rebuilt).soft_labels
    expected = max(float(1 - before[:, 0].min()), float(before[:, 1:].max()))
    difference = compare(find(copy), rebuilt).difference
    assert (difference.images, difference.largest, difference.mean, difference.labels) == (0, 0, 0.0, 2)
    assert difference.soft_label == pytest.approx(expected, abs=1e-6)


def test_another_version_alone_is_a_note(copy, rebuilt, manifest, monkeypatch, capsys, tmp_path):
    edit(copy, lambda fields: fields["environment"]["packages"].update(timm="0.0.1"))
    edit(copy, lambda fields: fields["environment"].update(hardware="[bold] CPU"))
    here = manifest.environment
    found = compare(find(copy), rebuilt)
    expected = {"timm": ("0.0.1", here.packages["timm"]), "hardware": ("[bold] CPU", here.hardware)}
    assert found.identical and found.environment == expected
    code, text = told(monkeypatch, capsys, copy, rebuilt, "--json", str(tmp_path / "report.json"))
    assert code == 0 and "Identical: 20 images" in text and "0.0.1" in text and "[bold] CPU" in text
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["identical"] and report["environment"]["timm"]["recorded"] == "0.0.1"


def test_the_first_step_that_differs_is_named(rebuilt, monkeypatch, capsys):
    """In the order of the run: source, then networks, then stages."""
    after = Manifest.read(rebuilt / "manifest.json")
    assert after.teacher.id == "fitted on digits"
    generator = after.teacher.model_copy(update={"id": "fitted on digits", "sha256": "1" * 64})
    after = after.model_copy(update={"generator": generator})
    stages = [stage.model_copy(update={"sha256": stage.sha256 and "2" * 64}) for stage in after.stages]
    before = after.model_copy(update={"stages": stages, "content_sha256": "0" * 64})
    assert module.Reproduction(before, after, None).first.name == "stage select"
    changes = {
        "generator": {"generator": generator.model_copy(update={"sha256": "3" * 64})},
        "teacher": {"teacher": after.teacher.model_copy(update={"sha256": "3" * 64})},
        "source": {"source": after.source.model_copy(update={"fingerprint": "3" * 64})},
    }
    for name, change in changes.items():
        before = before.model_copy(update=change)
        assert module.Reproduction(before, after, None).first.name == name


def test_a_fitted_network_that_differs_is_explained(copy, rebuilt, monkeypatch, capsys):
    edit(copy, lambda fields: fields["teacher"].update(sha256="3" * 64))
    code, text = told(monkeypatch, capsys, copy, rebuilt)
    assert code == 0 and re.search(r"teacher .*333333333333.* differs", text)  # the same labels: it is identical
    monkeypatch.setattr(module, "read_artifact", lambda *args, **kwargs: load_distilled(rebuilt))
    edit(copy, lambda fields: fields.update(content_sha256="0" * 64))
    code, text = told(monkeypatch, capsys, copy, rebuilt)
    assert code == 1 and "The first difference is in the teacher" in text and "same kind of hardware" in text


def test_a_manifest_without_hashes_of_stages_is_read(copy, rebuilt):
    def older(fields):
        for stage in fields["stages"]:
            del stage["sha256"]
        del fields["method"]["config"]["fit_seed"]
        del fields["method"]["config"]["label_share"]  # of views, which are not made again

    edit(copy, older)
    found = compare(find(copy), rebuilt)
    assert found.identical and found.steps[-1].verdict == "not on record"
    assert found.new_options == {"fit_seed": 0}


def test_new_options_are_told_with_what_was_taken_for_them(copy, rebuilt, tmp_path, monkeypatch, capsys):
    """Which need not be the default: of a set older than `timestep_features` it is what was done then."""
    again = shutil.copytree(rebuilt, tmp_path / "rebuilt")
    edit(again, lambda fields: fields["method"]["config"].update(timestep_features="diffusers"))
    code, text = told(monkeypatch, capsys, copy, again)
    assert code == 0 and "did not have then, and what was taken for them: timestep_features diffusers" in text
    assert "default" not in text


def test_the_line_is_short(made, manifest, monkeypatch, capsys):
    monkeypatch.chdir(ROOT)
    code, text = told(monkeypatch, capsys, made, "two words", "--print_command")
    start, rest = text.split(" --", 1)[0], set(shlex.split(text))
    assert code == 0 and start == "distill-hub make random_real"
    assert {"--ipc=2", "--teacher_epochs=2", "--output_dir=two words", "--score=no", "--view_epochs=0", "--cpu"} <= rest
    assert options(line(manifest)) == {"--ipc=2", "--teacher_epochs=2"}


def with_method(manifest, name, config, **fields):
    return manifest.model_copy(update={"method": MethodRecord(name=name, title=name, config=config), **fields})


@pytest.mark.parametrize(
    ("method", "recipe", "config"),
    [
        ("cao2", "cao2", Cao2Config(order="least_confident", max_timestep_fraction=0.125, fit_image_size=32)),
        ("difffit", "minimax", MinimaxConfig(lambda_r=0.0, lambda_d=0.0, tuning_learning_rate=3e-5, fit_seed=3)),
        ("random", "random_real", PixelOptions(test_fraction=0.25, test_split="it's", image_format="webp", seed=5)),
        ("rded", "rded", RdedConfig(factor=2, num_crops=7, label_column="--overwrite")),
        ("el2n", "coreset", CoresetConfig(method="el2n", keep="easiest", dynamics_count=3)),
    ],
)
def test_a_recipe_reads_from_the_line_what_is_on_record(manifest, method, recipe, config):
    words = line(with_method(manifest, method, resolved(config)))
    how = "--cpu --num_processes 1 --mixed_precision no"
    assert words[:8] == ["distill-hub", "make", recipe, *how.split()]
    rebuild = parse(type(config), words[8:])
    assert resolved(rebuild) == resolved(dataclasses.replace(config, score="no", view_epochs=0))


def test_evaluation_is_left_out_of_the_line(manifest):
    config = PixelOptions(protocol="idc-hard", students="convnet-3", repeats=7, view_epochs=10, ipc=3, baselines="ccs")
    assert options(line(with_method(manifest, "random", resolved(config)))) == {"--ipc=3"}


def model(id, revision=None, tuning=None, **more):
    return ModelRecord(id=id, architecture="DiT", revision=revision, sha256="1" * 64, tuning=tuning, **more)


def test_inputs_are_those_of_the_commits_on_record(manifest):
    source = manifest.source.model_copy(update={"name": "org/fish", "hub_id": "org/fish", "revision": "a" * 40})
    tuning = TuningRecord(
        method=manifest.method, base=model("org/dit", "b" * 40), source=manifest.source, classes=["0"], steps=1,
        seconds=1.0, environment=manifest.environment, created=manifest.created,
    )  # fmt: skip
    pins = {
        "--source=org/fish",
        f"--source_revision={'a' * 40}",
        "--timestep_features=diffusers",  # before there was a choice
        *HOW,
    }
    plain, tuned = model("org/dit", "b" * 40), model("org/dit, tuned with minimax on fish", tuning=tuning)

    def words(asked_for, record, **now):
        config = resolved(
            Cao2Config(source="org/fish", source_revision="main", generator=asked_for, timestep_features="auto")
        )
        return options(line(with_method(manifest, "cao2", config, source=source, generator=record), **now))

    named = "--generator=org/dit"
    assert words("org/dit", plain) == {*pins, named, f"--generator_revision={'b' * 40}"}
    assert words("auto", plain) == {*pins, f"--generator_revision={'b' * 40}"}
    # Tuned in the run itself, and before it, in a folder that has no commit.
    assert words("org/dit", tuned) == {*pins, named, f"--generator_revision={'b' * 40}"}
    assert words("outputs/tuned", tuned) == {*pins, "--generator=outputs/tuned"}
    # What lies elsewhere now has no commit on record.
    assert words("org/dit", plain, generator="there") == {*pins, "--generator=there"}
    moved = words("auto", None, source="digits", teacher="timm/resnet18")
    assert moved == {"--teacher=timm/resnet18", "--timestep_features=auto", *HOW}  # digits is the recipe's default
    # Whatever the name or place says now.
    dit = model("facebook/DiT-XL-2-256", "b" * 40, timestep_features="dit")
    assert "--timestep_features=dit" in words("auto", dit, generator="there")
    assert "--timestep_features=diffusers" in words("auto", model("facebook/DiT-XL-2-256", "b" * 40))


def test_several_teachers_are_those_of_the_commits_on_record(manifest):
    members = [model("org/a", "b" * 40), model("org/c")]
    several = model("org/a,org/c", members=members, combination="mean")
    config = resolved(RdedConfig(teacher="org/a,org/c", teacher_revision="main,"))
    words = options(line(with_method(manifest, "rded", config, teacher=several)))
    assert words == {"--teacher=org/a,org/c", f"--teacher_revision={'b' * 40},"}
    gone = with_method(manifest, "rded", resolved(RdedConfig(teacher="org/a,gone")), teacher=several)
    with pytest.raises(InputError, match=r"^teacher: 'gone' .* pass --teacher with the folder that holds the same here"):
        line(gone)
    assert options(line(gone, teacher="here,there")) == {"--teacher=here,there"}
    with pytest.raises(InputError, match=r"^teacher: 'here' .* labelled by 2; name as many, by commas and in the order"):
        line(gone, teacher="here")


def test_several_classifiers_of_dynamics_lie_in_folders_of_their_own(manifest, tmp_path):
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "dynamics.safetensors").touch()
    here = f"{tmp_path / 'a'}, {tmp_path / 'b'}"
    made = with_method(manifest, "aum", resolved(CoresetConfig(method="aum", dynamics=here)))
    assert options(line(made)) == {"--method=aum", f"--dynamics={here}"}
    shutil.rmtree(tmp_path / "b")
    with pytest.raises(InputError, match=r"^dynamics: '[^,]*b' .* pass --dynamics with the folder that holds the same here"):
        line(made)


@pytest.mark.parametrize("kind", sorted(FITTED_KINDS))
def test_a_kind_that_was_fitted_is_fitted_again_and_is_no_folder(manifest, kind, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def words(id):
        config = {**resolved(Cao2Config(generator=kind)), "timestep_features": None}
        return options(line(with_method(manifest, "cao2", config, generator=model(id))))

    assert f"--generator={kind}" in words("fitted on digits")
    with pytest.raises(InputError, match=f"generator: '{kind}' .*it is a folder of whoever made the set"):
        words(kind)  # as the folder ./mar is on record
    (tmp_path / kind).mkdir()
    (tmp_path / kind / "model_index.json").touch()
    assert f"--generator=./{kind}" in words(kind) and f"--generator={kind}" in words("fitted on digits")


def test_the_vae_is_that_of_the_commit_on_record_or_lies_elsewhere_now(manifest, tmp_path):
    def words(asked_for, record, **now):
        config = {
            **resolved(Cao2Config(generator="org/dit", timestep_features="auto")),
            "vae": asked_for,
            "vae_revision": "main",
        }
        made = options(line(with_method(manifest, "cao2", config, generator=model("org/dit", vae=record)), **now))
        return {word for word in made if word.startswith("--vae")}

    assert words("org/vae", model("org/vae", "c" * 40)) == {"--vae=org/vae", f"--vae_revision={'c' * 40}"}
    assert words("org/vae", model("org/vae", "c" * 40), vae="there") == {"--vae=there"}
    (tmp_path / "vae").mkdir()
    assert words("my-vae", model("my-vae"), vae=str(tmp_path / "vae")) == {f"--vae={tmp_path / 'vae'}"}
    with pytest.raises(InputError, match=r"vae: 'my-vae' .*pass --vae with the folder"):
        words("my-vae", model("my-vae"))
    with pytest.raises(InputError, match=r"vae: 'there' .*with the VAE of its generator"):
        words(None, None, vae="there")


def test_prompts_lie_in_a_file_of_the_author_s(manifest, tmp_path):
    told = {"prompts": "prompts.yaml", "prompt_template": "{}", "negative_prompt": None, "timestep_features": None}
    config = {**resolved(Cao2Config(generator="org/text")), **told}
    made = with_method(manifest, "cao2", config, generator=model("org/text"))
    with pytest.raises(InputError, match=r"prompts: 'prompts.yaml' .*pass --prompts with the file that holds the same here"):
        line(made)
    file = tmp_path / "mine.yaml"
    file.write_text("cat: a cat")
    assert {f"--prompts={file}", "--prompt_template={}"} <= options(line(made, prompts=str(file)))
    with pytest.raises(InputError, match=r"prompts: .*YAML or JSON"):
        check_settings(ReproduceConfig(location=str(tmp_path), prompts=str(tmp_path / "nowhere.yaml")))


def test_a_selector_is_that_of_the_record_or_where_it_lies_now(manifest, tmp_path):
    """One that followed the teacher follows it again, wherever that lies."""
    record = SelectorRecord(**dict(model("org/judge", "c" * 40)), judged_over=1000)

    def words(config, judge, **now):
        return options(line(with_method(manifest, "cao2", resolved(config), selector=judge, generator=None), **now))

    named = Cao2Config(selector="org/judge", selector_revision="main")
    assert words(named, record) == {"--selector=org/judge", f"--selector_revision={'c' * 40}"}
    assert words(named, record, selector="there") == {"--selector=there"}
    assert words(Cao2Config(judged_over="set"), record) == {"--judged_over=set"}
    assert words(Cao2Config(), record, teacher="there") == {"--teacher=there"}
    with pytest.raises(InputError, match=r"^selector: 'there' .* its teacher selected"):
        words(Cao2Config(), record, selector="there")
    gone = Cao2Config(selector=str(tmp_path / "gone"))
    with pytest.raises(InputError, match=r"^selector: .*gone.* pass --selector with the folder that holds the same here"):
        words(gone, record)
    assert words(gone, record, selector="there") == {"--selector=there"}
    same = manifest.model_copy(update={"selector": record})
    other = manifest.model_copy(update={"selector": record.model_copy(update={"sha256": "2" * 64})})
    assert module.Reproduction(same, other, None).first.name == "selector"


def test_a_record_without_timestep_features_is_read(copy):
    """As older versions wrote it, of a generator and of the one that it was tuned from."""

    def older(fields):
        generator = json.loads(model("org/dit").to_json())
        del generator["timestep_features"]
        fields["generator"] = generator

    edit(copy, older)
    read = Manifest.read(copy / "manifest.json")
    assert read.generator == model("org/dit") and read.generator.timestep_features is None
    made = with_method(read, "cao2", {"ipc": 3})  # whose recipe had no such option
    assert options(line(made)) == {"--ipc=3", "--timestep_features=diffusers", "--judged_over=set"}


def test_the_hash_of_an_older_pool_does_not_compare(manifest):
    """Of whose candidates something else was kept."""
    pool = {"name": "pool", "items": 4, "seconds": 1.0}
    older, newer = (
        manifest.model_copy(update={"stages": [StageRecord(**pool, sha256=digit * 64, peak_memory_bytes=peak)]})
        for digit, peak in (("1", None), ("2", {"host": 1}))
    )
    found = module.Reproduction(older, newer, None)
    assert found.first is None and found.steps[-1].verdict == "not on record"
    assert module.Reproduction(newer, older, None).first is None


def test_pixels_of_an_older_record_are_seen_as_they_were_then(manifest):
    """Cropped, mirrored, and rolled by a seventh of the side, at any size."""
    seen = {"--smallest_crop=0.08", "--flips=yes", f"--largest_roll={round(manifest.image_size / 7)}"}
    assert options(line(with_method(manifest, "sre2l", {"smallest_crop": 0.08}))) == seen
    assert options(line(with_method(manifest, "sre2l", resolved(Sre2lConfig())))) == set()  # says itself how


@pytest.mark.parametrize(
    ("gpus", "recorded", "start"),
    [
        (0, {"processes": 3, "mixed_precision": "bf16", "peak_memory_bytes": {"cpu": 1}},
         ["--cpu", "--num_processes", "3", "--mixed_precision", "bf16"]),
        (8, {"processes": 4, "mixed_precision": "bf16", "peak_memory_bytes": {"cpu": 1, "cuda": 1}},
         ["--config_file", GPUS, "--num_processes", "4", "--mixed_precision", "bf16"]),
        (1, {"processes": 4, "mixed_precision": "fp16", "peak_memory_bytes": {"cpu": 1, "cuda": 1}},
         ["--config_file", GPUS, "--num_processes", "1", "--mixed_precision", "fp16"]),
    ],
)  # fmt: skip
def test_processes_and_precision_are_as_recorded_where_there_are_devices(manifest, monkeypatch, gpus, recorded, start):
    monkeypatch.setattr("torch.cuda.device_count", lambda: gpus)
    monkeypatch.setattr("os.cpu_count", lambda: 4)
    environment = manifest.environment.model_copy(update=recorded)
    words = line(manifest.model_copy(update={"environment": environment}))
    assert words[: len(start) + 3] == ["distill-hub", "make", "random_real", *start]
    # What Accelerate is to do is said by this line and this file, whatever `accelerate config` wrote here.
    file = load_config_from_file(GPUS)
    assert (file.num_machines, file.use_cpu, file.dynamo_config, file.gpu_ids) == (1, False, {}, None)


@pytest.mark.parametrize(
    ("change", "parts"),
    [
        ({"origin": "external"}, ["distilled set", "made elsewhere"]),
        ({"seed": None}, ["seed: needed", "cannot be rebuilt"]),
        ({"environment": None}, ["environment", "cannot be rebuilt"]),
        ({"method": ("random", {})}, ["method.config", "cannot be rebuilt"]),
        ({"method": ("kcentre", {"ipc": 2})}, ["method.name", "'kcentre'", "did you mean 'kcenter'"]),
        ({"method": ("fit_generator", {"fit_seed": 0})}, ["method.name", "makes no distilled sets"]),
        ({"method": ("random", {"ipc": 2, "teacher_epoch": 3})}, ["'teacher_epoch'", "did you mean 'teacher_epochs'"]),
        ({"method": ("random", {"ipc": 2, "output_dir": "/"})}, ["'output_dir'", "random_real has no such option"]),
        ({"method": ("random", {"ipc": "two"})}, ["ipc", "'two'", "> 0"]),
        ({"method": ("random", {"source_revision": "\x1b[2J"})}, ["manifest.json", "control characters"]),
        ({"method": ("random", {"teacher": "photos-teacher"})}, ["teacher: 'photos-teacher'", "pass --teacher"]),
        ({"method": ("cao2", {"generator": "photos-dit"})}, ["generator: 'photos-dit'", "pass --generator"]),
        ({"method": ("cao2", {"generator": "/home/eve/dit"})}, ["generator: '/home/eve/dit'", "pass --generator"]),
    ],
)
def test_what_cannot_be_tried_is_refused_by_field(manifest, change, parts):
    if "method" in change:
        name, config = change["method"]
        change = {"method": MethodRecord(name=name, title=name, config=config)}
    with pytest.raises(InputError) as caught:
        line(manifest.model_copy(update=change))
    assert all(part in str(caught.value) for part in parts), caught.value


def test_a_folder_that_is_gone_needs_its_new_place(manifest, tmp_path):
    gone = manifest.source.model_copy(update={"name": str(tmp_path / "gone")})
    moved = with_method(manifest, "random", {"source": gone.name, "ipc": 3}, source=gone)
    with pytest.raises(InputError, match="--source"):
        line(moved)
    assert options(line(moved, source=str(tmp_path))) == {f"--source={tmp_path}", "--ipc=3", *HOW}
    (tmp_path / "gone").mkdir()
    assert options(line(moved)) == {f"--source={gone.name}", "--ipc=3", *HOW}
    older = moved.model_copy(update={"source": gone.model_copy(update={"mirrored": None, "normalization": None})})
    assert options(line(older)) == {f"--source={gone.name}", "--ipc=3", "--mirrored=no"}  # as the names of classes told
    named = [c.model_copy(update={"name": f"class {c.name}"}) for c in manifest.classes]
    older = older.model_copy(update={"classes": named})
    assert options(line(older)) == {f"--source={gone.name}", "--ipc=3", "--mirrored=yes"}
    assert options(line(moved, mirrored="yes")) == {f"--source={gone.name}", "--ipc=3", "--mirrored=yes", HOW[1]}
    with pytest.raises(InputError, match="--source"):  # of a stranger, whose folder is not one of the same name here
        line(moved, published=True)


def test_the_set_itself_is_not_rebuilt_over(made):
    with pytest.raises(InputError, match=r"output_dir.*itself"):
        reproduce(ReproduceConfig(location=str(made), output_dir=made, overwrite=True))


def test_a_rebuild_by_other_versions_is_not_taken_up(made, copy):
    edit(copy, lambda fields: fields["environment"]["packages"].update(timm="0.0.1"))
    with pytest.raises(InputError, match=r"output_dir.*timm 0\.0\.1.*--overwrite"):
        reproduce(ReproduceConfig(location=str(made), output_dir=copy))


def test_a_recipe_that_fails_is_no_difference(made, tmp_path, monkeypatch):
    failed = types.SimpleNamespace(wait=lambda: 3)
    calls = []
    monkeypatch.setattr(subprocess, "Popen", lambda *args, **kwargs: calls.append(args) or failed)
    with pytest.raises(InputError, match=r"command.*distill-hub make random_real.*code 3"):
        reproduce(ReproduceConfig(location=str(made), output_dir=tmp_path / "set"))
    (((python, *words),),) = calls
    assert (python, words[:4]) == (sys.executable, ["-m", "distill_hub.cli", "make", "random_real"])


INTERRUPTED = """
import sys
from dataclasses import make_dataclass
from distill_hub.config import launch
from distill_hub.launching.reproduce import _run
words = ["distill-hub", "make", "random_real", "--num_processes", "2", "--output_dir", sys.argv[1]]
launch(lambda _: _run(words), make_dataclass("Settings", []), None, [], light=True)
"""


@pytest.mark.parametrize("send", [os.kill, os.killpg])  # alone; or to its group, as a terminal does
def test_ctrl_c_is_told_once_and_ends_the_rebuild(tmp_path, send):
    words = [sys.executable, "-c", INTERRUPTED, str(tmp_path / "out")]
    own = {"start_new_session": True, "preexec_fn": hear_signals}
    command = subprocess.Popen(words, stderr=subprocess.PIPE, text=True, **own)
    deadline = time.monotonic() + 60
    while len(started := psutil.Process(command.pid).children(recursive=True)) < 3:  # `make`, and two of a recipe
        assert command.poll() is None and time.monotonic() < deadline
        time.sleep(0.05)
    for _ in range(2):
        send(command.pid, signal.SIGINT)
    _, errors = command.communicate(timeout=20)
    said = [line for line in errors.splitlines() if line and line != LOADING]
    assert (command.returncode, said) == (130, ["interrupted; the same command goes on where it stopped"])
    assert not psutil.wait_procs(started, timeout=20)[1]
