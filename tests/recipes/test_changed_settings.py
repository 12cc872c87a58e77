"""A recipe that is run again with other options: what does not depend on them is kept, and what comes out is the same."""

import json
import os

import pytest
from helpers import TINY, refused, run_here, unscored

from distill_hub.making import finish
from distill_hub.running import run as run_module
from distill_hub.running.versions import versions

WORDS = ["recipes/cao2.py", *TINY, "--view_epochs", "0"]


def stopped(folder, *words):
    """Run it up to where the set would be packaged."""

    def interrupt(*_, **__):
        raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(finish, "write_artifact", interrupt)
        run_here(*WORDS, *words, "--output_dir", str(folder))


def done(folder, *words):
    with unscored():
        run_here(*WORDS, *words, "--output_dir", str(folder))
    return json.loads((folder / "manifest.json").read_bytes())["content_sha256"]


def written(folder, stage):
    return {file.name: file.stat().st_mtime_ns for file in (folder / ".run" / stage).iterdir()}


def kept(folder, before, *stages):
    return [stage for stage in stages if written(folder, stage).items() <= before[stage].items()]


@pytest.fixture(scope="module")
def fresh(tmp_path_factory):
    """The hash of a set that was made at once, with a batch size of 5."""
    return done(tmp_path_factory.mktemp("fresh") / "set", "--refine_batch_size", "5")


def test_another_batch_size_of_the_refinement_keeps_the_pool(fresh, tmp_path, capfd):
    folder = tmp_path / "set"
    stopped(folder)
    before = {stage: written(folder, stage) for stage in ("pool", "refine")}
    capfd.readouterr()
    assert done(folder, "--refine_batch_size", "5") == fresh
    assert kept(folder, before, "pool", "refine") == ["pool"] and len(written(folder, "refine")) == 8
    told = " ".join(capfd.readouterr().out.split())
    assert "other settings: refine_batch_size (6 before, 5 now); what depends on them is done again" in told
    assert "refine: what it is made from has changed" in told and "pool: what" not in told

    # The set is finished now. Options of what is done with it cost no image; nothing is replaced unasked.
    line = refused(capfd, *WORDS, "--refine_batch_size", "5", "--students", "convnet-1", "--output_dir", str(folder))
    assert line.startswith("error: students: 'convnet-1' cannot be used") and "--overwrite" in line
    before = {stage: written(folder, stage) for stage in ("pool", "refine")}
    assert done(folder, "--refine_batch_size", "5", "--students", "convnet-1", "--overwrite") == fresh
    assert kept(folder, before, "pool", "refine") == ["pool", "refine"]
    assert sorted(os.listdir(folder / ".run")) == ["choose", "config.json", "pool", "refine"]


def test_another_guidance_redoes_what_was_drawn_and_a_library_everything(tmp_path, monkeypatch, capfd):
    folder = tmp_path / "set"
    stopped(folder)
    before = {stage: written(folder, stage) for stage in ("pool", "refine")}
    stopped(folder, "--guidance_scale", "1")
    assert kept(folder, before, "pool", "refine") == []
    before = {stage: written(folder, stage) for stage in ("pool", "refine")}
    monkeypatch.setattr(run_module, "versions", lambda: {**versions(), "timm": "0.0"})
    capfd.readouterr()
    stopped(folder, "--guidance_scale", "1")
    assert kept(folder, before, "pool", "refine") == []
    assert f"version of timm ({versions()['timm']} before, 0.0 now)" in " ".join(capfd.readouterr().out.split())


def test_another_method_of_the_same_options_is_refused_its_folder(tmp_path, capfd):
    words = ["--ipc", "1", "--teacher_epochs", "4", "--view_epochs", "0", "--output_dir", str(tmp_path / "set")]
    with unscored():
        run_here("recipes/herding.py", *words)
    assert "another recipe: herding, not kcenter" in refused(capfd, "recipes/kcenter.py", *words)
