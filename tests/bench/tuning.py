"""Speed and memory of fine-tuning: latents encoded once or in every step, activations kept or computed again.

    python tests/bench/tuning.py                                             # a small generator, as the offline default's
    python tests/bench/tuning.py --size xl --precision bf16 --steps 30       # DiT-XL/2 at 256 px, on a GPU

Weights, images and latents are random: the work is the same. Without cached latents, the images of a step go through the
VAE in that step, as in Minimax Diffusion's code; reading them from files, which that code also does, is left out. Every
contestant is a process of its own, so that its peak memory is its own. On a GPU the operations per second, those of
activations that are computed twice among them, are set against those of one large matrix product in the same precision.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

CONTESTANTS = {
    "cached latents": {},
    "cached latents, gradient checkpointing": {"gradient_checkpointing": True},
    "cached latents, DiffFit": {"lambda_r": 0.0, "lambda_d": 0.0},
    "latents encoded in every step": {"encode": True},
}
SIZES = {  # heads, width of a head, blocks, side of the latents, learned variance, channels of the VAE
    "small": (3, 32, 4, 8, False, (16, 32)),
    "xl": (16, 72, 28, 32, True, (128, 256, 512, 512)),
}


def generator(size: str, device):
    import torch
    from diffusers import AutoencoderKL, DDPMScheduler, DiTPipeline, DiTTransformer2DModel

    from distill_hub.generators.dit import DiTGenerator

    heads, head, blocks, side, learned, channels = SIZES[size]
    torch.manual_seed(0)
    with torch.device(device):
        vae = AutoencoderKL(
            down_block_types=("DownEncoderBlock2D",) * len(channels),
            up_block_types=("UpDecoderBlock2D",) * len(channels),
            block_out_channels=channels,
            layers_per_block=2 if size == "xl" else 1,
            latent_channels=4,
            norm_num_groups=8,
        )
        transformer = DiTTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=head,
            out_channels=8 if learned else 4,
            num_layers=blocks,
            sample_size=side,
            num_embeds_ada_norm=1000 if size == "xl" else 10,
        )
    blocks = transformer.transformer_blocks
    for block in blocks:  # one embedding in as many copies, as in the published DiT-XL/2
        block.norm1.emb.load_state_dict(blocks[0].norm1.emb.state_dict())
    scheduler = DDPMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False)
    return DiTGenerator(DiTPipeline(transformer, vae, scheduler), device=device)


def measure(args, name: str) -> dict[str, float]:
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from distill_hub.generators.latents import Latents
    from distill_hub.machine import peak_memory
    from distill_hub.methods.tuning import Tuning, check
    from distill_hub.options import MinimaxConfig
    from distill_hub.run import Run

    changes = dict(CONTESTANTS[name])
    encodes = changes.pop("encode", False)
    with tempfile.TemporaryDirectory() as folder:
        run = Run(Path(folder, "run"), {})
        base = generator(args.size, run.device)
        count = 640

        def encode(rows):
            mean = torch.randn(len(rows), 2, *base.latent_shape)
            return {"mean": mean.half(), "std": torch.full_like(mean, 0.1).half()}

        latents, labels = Latents(run.map("encode", range(count), encode, chunk_size=64)), torch.arange(count) % 10
        settings = MinimaxConfig(tuning_batch_size=args.batch_size, memory_size=min(64, count // 10), **changes)
        micro = check(settings, [str(c) for c in range(10)], labels, run.accelerator)
        tuning = Tuning(run, base, latents, labels, range(10), settings, micro_batch_size=micro, seed=0, identity={})
        images = torch.rand(args.batch_size, 3, base.image_size, base.image_size, device=run.device)

        def step(number: int) -> None:
            if encodes:
                with torch.inference_mode():
                    base.posterior(images)
            tuning.update(tuning.batch(number))

        def synchronize() -> None:
            if run.device.type == "cuda":
                torch.cuda.synchronize()

        for number in range(args.warm_up):
            step(number)
        synchronize()
        started = time.perf_counter()
        for number in range(args.warm_up, args.warm_up + args.steps):
            step(number)
        synchronize()
        seconds = (time.perf_counter() - started) / args.steps
        result = {
            "steps per second": 1 / seconds,
            "peak memory, MiB": list(peak_memory(run.accelerator).values())[-1] / 2**20,
        }
        with FlopCounterMode(display=False) as counter:
            step(0)
        result["TFLOP per step"] = counter.get_total_flops() / 1e12
        if run.device.type == "cuda":
            rate = matrix_rate(run.dtype, run.device)
            result["matrix product, TFLOP/s"] = rate
            result["fraction of it"] = result["TFLOP per step"] / seconds / rate
        return result


def matrix_rate(dtype, device, side: int = 8192, repeats: int = 50) -> float:
    """Return TFLOP/s of one large matrix product."""
    import torch

    a, b = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    for _ in range(5):
        a @ b
    torch.cuda.synchronize()
    started = time.perf_counter()
    for _ in range(repeats):
        a @ b
    torch.cuda.synchronize()
    return 2 * side**3 * repeats / (time.perf_counter() - started) / 1e12


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--size", choices=list(SIZES), default="small")
    parser.add_argument("--batch_size", type=int, default=8)
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--warm_up", type=int, default=10)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--precision", choices=["no", "bf16"], default="no")
    parser.add_argument("--contestant", choices=list(CONTESTANTS), help="internal: measure this one, in this process")
    args = parser.parse_args()
    if args.contestant:
        print(json.dumps(measure(args, args.contestant)))
        return
    environment = {**os.environ, "ACCELERATE_MIXED_PRECISION": args.precision}  # as `accelerate launch` hands it on
    results = {name: [] for name in CONTESTANTS}
    for _ in range(args.rounds):
        for name in CONTESTANTS:  # they take turns, so that a slow minute of the machine hits all
            words = [sys.executable, __file__, *sys.argv[1:], "--contestant", name]
            done = subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True, env=environment)
            results[name].append(json.loads(done.stdout.splitlines()[-1]))
    columns = list(results["cached latents"][0])
    print(f"| {args.size}, batch {args.batch_size}, {args.precision}; median of {args.rounds} | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    for name, rounds in results.items():
        middle = sorted(rounds, key=lambda r: r["steps per second"])[len(rounds) // 2]
        print(f"| {name} | {' | '.join(f'{middle[column]:.3g}' for column in columns)} |")


if __name__ == "__main__":
    main()
