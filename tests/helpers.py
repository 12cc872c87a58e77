"""Builders and commands shared by tests."""

import os
import subprocess
import sys
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTPipeline, DiTTransformer2DModel

ROOT = Path(__file__).parents[1]
# Everything small: what is tested is the path, not the pictures.
TINY = [
    *("--fit_vae_steps", "60", "--fit_dit_steps", "600", "--fit_vae_width", "8", "--fit_dit_width", "64"),
    *("--fit_dit_layers", "2", "--teacher_epochs", "4", "--students", "convnet-1", "--repeats", "2", "--ipc", "2"),
    *("--pool_factor", "3", "--sample_steps", "10", "--sample_batch_size", "13", "--refine_batch_size", "6"),
    *("--refine_steps", "5", "--view_epochs", "150"),
]


def make_pipeline(num_classes: int = 3, *, learned_variance: bool = False) -> DiTPipeline:
    """Build a random DiT (4x8x8 latents, 16 px images) as diffusers itself would hold it."""
    torch.manual_seed(0)
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        block_out_channels=(8, 16),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=4,
        sample_size=16,
        scaling_factor=0.7,
    )
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


def command(processes: int, *words: str) -> tuple[list[str], dict[str, str]]:
    """Return words and environment that start a recipe as a user does."""
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true"}
    if processes == 1:
        start = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "1", "--num_machines", "1"]
        start += ["--mixed_precision", "no", "--dynamo_backend", "no", "--quiet"]
    else:
        start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)]
    return [*start, *words], environment


def run(processes: int, *words: str, **more_environment: str) -> subprocess.CompletedProcess:
    arguments, environment = command(processes, *words)
    environment |= more_environment
    return subprocess.run(arguments, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=600)
