"""What fine-tuning does to a generator, and to the sets drawn from it: a study on handwritten digits, run by hand.

    python tests/bench/minimax.py --folder outputs/study --ema_decay 0.999              # a generator fitted to digits
    python tests/bench/minimax.py --folder outputs/study-45 --turned 45 --ema_decay 0.999

The second base is fitted to digits turned by up to 45 degrees, a wider domain than what is distilled. Either is fine-tuned
on the upright digits by `recipes/minimax.py`, once per seed with the minimax criteria and once without; sets of 10 and 50
images per class come from `recipes/plain.py`, `minimax.py` and `cao2.py`. All are runs of the recipes in the folder, so the
same command goes on where it was stopped. Options that are not the script's own go to the fine-tuning.

The diffusion loss is that of the test images, with the same timesteps and noise for every generator. Coverage (Naeem et
al., 2020, Eq. 9; k = 5) is the share of a class's real training images that have an image of the set nearer than their own
fifth neighbour, in the teacher's features; distance is the mean over the pairs of a class, of those features or of pixels in
[0, 1].
"""

import argparse
import random
import subprocess
import sys
from pathlib import Path
from statistics import mean, stdev

import torch
from PIL import Image

from distill_hub.artifact.load import load_artifact
from distill_hub.classifiers import Classifier
from distill_hub.data.sources import Source, load_source
from distill_hub.generators.dit import DiTGenerator
from distill_hub.generators.objective import Objective
from distill_hub.running.run import Run
from distill_hub.teachers.open import open_teacher
from distill_hub.training.subject import HeldOut

IPCS, NEIGHBOURS, LOSS_REPEATS = (50, 10), 5, 8
PLAIN, DIFFFIT, MINIMAX, CAO2, REAL = "plain DiT", "DiffFit", "Minimax", "CaO2 on Minimax", "random real"
LOSS, COVERAGE, FEATURES, PIXELS = "diffusion loss", "coverage, %", "distance, features", "distance, pixels"


def recipe(name: str, *words: object) -> None:
    """Run a recipe, quietly."""
    command = [sys.executable, f"recipes/{name}.py", *map(str, words)]
    print(*command[1:], file=sys.stderr)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def write_turned(source: Source, folder: Path, degrees: float) -> None:
    """Write every image four times, turned at random, as a folder of images per class."""
    draw = random.Random(0)
    for split, images in (("train", source.train), ("test", source.test)):
        for row, (pixels, label) in enumerate(zip(images.pixels(None, 16).numpy(), images.labels, strict=True)):
            place = folder / split / source.class_names[label]
            place.mkdir(parents=True, exist_ok=True)
            for copy in range(4):
                angle = draw.uniform(-degrees, degrees)
                image = Image.fromarray(pixels.transpose(1, 2, 0)).rotate(angle, Image.Resampling.BILINEAR)
                image.save(place / f"{row}-{copy}.png")


def fit_base(source: Source, folder: Path, degrees: float) -> Path:
    """Return the generator that is fine-tuned, fitted first when it is not there."""
    base = folder / "base"
    if not base.is_dir():
        if degrees:
            write_turned(source, folder / "turned", degrees)
        recipe("fit_generator", "--source", folder / "turned" if degrees else "digits", "--output_dir", base)
    return base


def make_sets(folder: Path, base: Path, seed: int, tuning: list[str]) -> dict[tuple[str, int], tuple[Path, Path]]:
    """Fine-tune and distil with one seed; return each set and its generator, by method and IPC."""
    sets, tuned = {}, {}

    def make(method: str, name: str, generator: Path, ipc: int, *words: str) -> Path:
        place = folder / f"{method.lower().replace(' ', '-')}-ipc{ipc}-seed{seed}"
        own = {"output_dir": place, "ipc": ipc, "seed": seed, "generator": generator, "guidance_scale": 4, "view_epochs": 0}
        recipe(name, *(word for option, value in own.items() for word in (f"--{option}", value)), *words)
        sets[method, ipc] = place, tuned.get(method, generator)
        return place

    for ipc in IPCS:
        make(PLAIN, "dit", base, ipc)
        for method, weights in ((DIFFFIT, ["--lambda_r", "0", "--lambda_d", "0"]), (MINIMAX, [])):
            place = make(method, "minimax", tuned.get(method, base), ipc, *weights, *tuning)
            tuned.setdefault(method, place / "generator")
            sets[method, ipc] = place, tuned[method]
        make(CAO2, "cao2", tuned[MINIMAX], ipc)
    return sets


@torch.inference_mode()
def diffusion_loss(source: Source, folder: Path) -> float:
    """Return the loss of a generator on the test images."""
    generator = DiTGenerator.from_pretrained(str(folder))
    objective, draw = Objective(generator.diffusion.scheduler.betas), torch.Generator().manual_seed(0)
    labels = torch.from_numpy(source.test.labels)
    latents, _ = generator.posterior(source.test.pixels(None, generator.image_size).float() / 255)
    losses = []
    for _ in range(LOSS_REPEATS):
        noise = torch.randn(latents.shape, generator=draw)
        timesteps = torch.randint(objective.steps, (len(latents),), generator=draw)
        noisy = objective.add_noise(latents, noise, timesteps)
        output = generator.transformer(noisy, timestep=timesteps, class_labels=labels).sample
        losses.append(objective.loss(output, latents, noise, noisy, timesteps).mean().item())
    return mean(losses)


@torch.inference_mode()
def spread(source: Source, teacher: Classifier, images: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Return coverage and mean distances of uint8 images (N, 3, S, S)."""
    real, real_labels = source.train.pixels(None, images.shape[-1]), torch.from_numpy(source.train.labels)
    real_features, features = (teacher.embed(pixels.float() / 255) for pixels in (real, images))
    found = {COVERAGE: [], FEATURES: [], PIXELS: []}
    for label in range(len(source.classes)):
        near, own = real_features[real_labels == label], features[labels == label]
        radius = torch.cdist(near, near).kthvalue(NEIGHBOURS + 1, dim=1).values  # the nearest is the image itself
        found[COVERAGE].append(100 * (torch.cdist(near, own).amin(1) < radius).float().mean().item())
        found[FEATURES].append(torch.pdist(own).mean().item())
        found[PIXELS].append(torch.pdist(images[labels == label].flatten(1).float() / 255).mean().item())
    return {name: mean(values) for name, values in found.items()}


def figures(source: Source, teacher: Classifier, sets: dict[tuple[str, int], tuple[Path, Path]], seed: int) -> dict:
    """Return the figures of one seed, by method."""
    found = {}
    for (method, ipc), (folder, generator) in sets.items():
        loaded = load_artifact(folder, rows=False, pixels=True)
        (record,) = loaded.evaluations
        accuracy, own = f"accuracy, IPC {ipc}", found.setdefault(method, {})
        own[accuracy] = 100 * record.score.mean
        if ipc == IPCS[0]:
            own[LOSS] = diffusion_loss(source, generator)
            own |= spread(source, teacher, torch.from_numpy(loaded.pixels), torch.from_numpy(loaded.labels))
            if method == PLAIN:
                rows = source.train.draw_per_class(ipc, seed)
                images, labels = source.train.pixels(rows, loaded.pixels.shape[-1]), source.train.labels[rows]
                found[REAL] = spread(source, teacher, images, torch.from_numpy(labels))
        found[REAL][accuracy] = 100 * record.baselines["random real"].mean
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="holds everything")
    parser.add_argument("--turned", type=float, default=0.0, help="degrees; 0: the base is fitted to the digits themselves")
    parser.add_argument("--seeds", type=int, default=3)
    args, tuning = parser.parse_known_args()
    source = load_source("digits")
    base = fit_base(source, args.folder, args.turned)
    sets = [make_sets(args.folder, base, seed, tuning) for seed in range(args.seeds)]
    named = {"teacher": "auto", "teacher_revision": None, "teacher_epochs": None}
    teacher, _ = open_teacher(Run(args.folder / "measure", {}), HeldOut(source), source.image_size, **named, seed=0)
    rounds = [figures(source, teacher, made, seed) for seed, made in enumerate(sets)]
    columns = [*(f"accuracy, IPC {ipc}" for ipc in sorted(IPCS)), LOSS, COVERAGE, FEATURES, PIXELS]
    print("| |", " | ".join(columns), "|")
    print("|---" * (len(columns) + 1) + "|")
    for method in (REAL, PLAIN, DIFFFIT, MINIMAX, CAO2):
        cells = []
        for column in columns:
            values = [found[method][column] for found in rounds if column in found[method]]
            digits = 4 if column == LOSS else 2 if column in (FEATURES, PIXELS) else 1
            cells.append(f"{mean(values):.{digits}f} ± {stdev(values):.{digits}f}" if values else "")
        print(f"| {method} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
