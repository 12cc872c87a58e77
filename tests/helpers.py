"""Builders and commands shared by tests."""

import contextlib
import os
import runpy
import signal
import subprocess
import sys
import time
import unittest.mock
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTPipeline, DiTTransformer2DModel
from processes import ROOT, kill, start_python

from distill_hub import load_distilled
from distill_hub.artifact.describe import weights_sha256
from distill_hub.classifiers import load_classifier
from distill_hub.data.sources import load_source
from distill_hub.disk.files import cache_dir
from distill_hub.disk.lock import release_all
from distill_hub.training.protocols import Protocol

# Everything small: what is tested is the path, not the pictures. The first for any recipe with a generator, then CaO2's.
SMALL = [
    *("--fit_vae_steps", "60", "--fit_dit_steps", "600", "--fit_vae_width", "8", "--fit_dit_width", "64"),
    *("--fit_dit_layers", "2", "--teacher_epochs", "4", "--students", "convnet-1-w16", "--repeats", "2", "--ipc", "2"),
    *("--sample_steps", "10", "--sample_batch_size", "13", "--view_epochs", "150"),
]
TINY = [*SMALL, "--pool_factor", "3", "--refine_batch_size", "6", "--refine_steps", "5"]


# Which settings each recipe takes, by the annotation of its main function.
FILES = sorted((ROOT / "recipes").glob("*.py"))
RECIPES = {file.stem: runpy.run_path(str(file))["main"].__annotations__["config"] for file in FILES}


def make_vae() -> AutoencoderKL:
    """Build a random VAE from 16 px to 4x8x8 latents."""
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.7,
    )


def make_pipeline(num_classes: int = 3, *, learned_variance: bool = False) -> DiTPipeline:
    """Build a random DiT (4x8x8 latents, 16 px images) as diffusers itself would hold it."""
    torch.manual_seed(0)
    vae = make_vae()
    transformer = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=16,
        in_channels=4,
        out_channels=8 if learned_variance else 4,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=num_classes,
    )
    # A fresh DiT ignores its class (zero-initialised modulation does in the original; here it is merely faint).
    for parameter in transformer.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    scheduler = DDPMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False)
    return DiTPipeline(transformer.eval(), vae.eval(), scheduler)


LAUNCH = [
    *(sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"),
    *("--mixed_precision", "no", "--dynamo_backend", "no", "--quiet"),
]
TORCHRUN = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]


def run(start: list[str], *words: str, **more_environment: str) -> subprocess.CompletedProcess:
    """Run a recipe as a user starts it, by `LAUNCH` or `TORCHRUN`."""
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", **more_environment}
    return subprocess.run([*start, *words], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)


def run_here(recipe: str, *words: str) -> None:
    """Run a recipe in this process, which has imported everything already."""
    with unittest.mock.patch.object(sys, "argv", [recipe, *words]):
        try:
            runpy.run_path(str(ROOT / recipe), run_name="__main__")
        finally:
            release_all()  # as at the end of a process
            signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored while one ends


@contextlib.contextmanager
def unscored() -> Iterator[None]:
    """Let recipes train no students: scoring is the same for all, and takes longest."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Protocol, "students", lambda *_: [])
        patch.setattr("distill_hub.making.finish.score_table", lambda *_: "")
        yield


def refused(capfd, recipe: str, *words: str) -> str:
    """Run a recipe in this process, which must end with code 2; return the one line that says why."""
    with pytest.raises(SystemExit) as exit:
        run_here(recipe, *words)
    assert exit.value.code == 2
    (line,) = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    return line


def fitted_teacher(folder: Path) -> Path:
    """Return where the teacher of a set of digits lies in the tests' cache, which may hold others, finished or not."""
    recorded, classes = load_distilled(folder).manifest.teacher.sha256, load_source("digits").classes
    places = [config.parent for config in cache_dir().glob("digits-teacher-*/config.json")]
    (found,) = [place for place in places if weights_sha256(load_classifier(str(place), classes).model) == recorded]
    return found


def kill_when(is_time: Callable[[], bool], *words: str) -> None:
    """Start a recipe as a process of its own, and SIGKILL it at some point before its end."""
    process = start_python(words, [Path(os.devnull)] * 3, os.environ)
    while not is_time():
        assert process.is_alive(), "it ended before it could be killed"
        time.sleep(0.002)
    kill(process)
