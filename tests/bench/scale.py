"""Time, memory and disk of recipes against the number of classes and images per class, up to 1,000 classes.

    python tests/bench/scale.py --folder outputs/scale

Classes are colours: real images are 16 px of one colour with noise, the teacher finds the nearest colour, and the generator
draws the colour it is asked for, unevenly. Both have weights written by hand, so nothing is fitted. Every recipe is run as a
user runs it, with two processes. The same command goes on where it was stopped, and ends with the tables and the plot.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import torch
from datasets import ClassLabel, Dataset, Features, Image
from diffusers import AutoencoderKL, DDPMScheduler, DiTPipeline, DiTTransformer2DModel
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from torch import nn

from distill_hub.classifiers import IMAGENET_MEAN, IMAGENET_STD, save_network
from distill_hub.disk.files import atomic_write
from distill_hub.networks.build import build

ROOT = Path(__file__).parents[2]
SIZE, TRAIN, TEST = 16, 60, 10  # pixels; images of a class
CLASSES, IPCS = (10, 100, 500, 1000), (1, 10, 50)
AT_IPC, AT_CLASSES = 10, 100  # what the other axis is held at
GENERATIVE = ["--generator", "{}/generator", "--guidance_scale", "1", "--sample_steps", "4", "--pool_factor", "2"]
RECIPES = {
    "cao2": [*GENERATIVE, "--refine_steps", "4"],
    "random_real": [],
    "sre2l": ["--recover_steps", "20"],
}
COMMON = ["--source", "{}/source", "--teacher", "{}/teacher", "--students", "convnet-2-w16-bn", "--repeats", "1"]
NEAR_LINEAR = 20.0  # SiLU is the identity there to 1e-7


def colours(classes: int) -> torch.Tensor:
    """Return colours far apart, (C, 3) in [-1, 1]: the same first ones for any C."""
    levels = torch.linspace(-0.9, 0.9, 10)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))[:classes]
    return torch.cartesian_prod(levels, levels, levels)[order]


def write_source(folder: Path, means: torch.Tensor, names: list[str]) -> None:
    """Write the real images as Parquet files."""
    (folder / "data").mkdir(parents=True)
    draw = np.random.default_rng(0)
    features = Features({"image": Image(), "label": ClassLabel(names=names)})
    for split, count in {"train": TRAIN, "test": TEST}.items():

        def rows(count=count):
            for label, mean in enumerate(((means + 1) * 127.5).numpy()):
                for noise in draw.normal(0, 8, (count, SIZE, SIZE, 3)):
                    yield {"image": (mean + noise).clip(0, 255).astype(np.uint8), "label": label}

        Dataset.from_generator(rows, features=features, cache_dir=str(folder.parent / "cache")).to_parquet(
            folder / "data" / f"{split}-00000-of-00001.parquet"
        )


def write_teacher(
    folder: Path, means: torch.Tensor, names: list[str], name: str = "convnet-1-w8-bn", size: int = SIZE
) -> None:
    """Write a ConvNet whose logits fall with the squared distance of an image's mean colour from each class's."""
    model = build(name, len(names), size).eval()
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    mean, std = torch.tensor(IMAGENET_MEAN), torch.tensor(IMAGENET_STD)
    with torch.no_grad():
        for conv, norm in zip(model.features[0:-1:4], model.features[1::4], strict=True):
            for channel in range(3):
                conv.weight[channel, channel, 1, 1] = 1
            norm.weight.fill_(1)
        model.features[1].bias.fill_(3)  # above 0 for any colour, so that ReLU lets it pass
        goals = ((means + 1) / 2 - mean) / std + 3  # what the features are for each class, (C, 3)
        cells = model.classifier.in_features // model.features[0].out_channels
        model.classifier.weight[:, : 3 * cells] = 20 * goals.repeat_interleave(cells, 1) / cells
        model.classifier.bias.copy_(-10 * goals.square().sum(1))
    save_network(model, folder, name, names, size)


def write_generator(
    folder: Path, means: torch.Tensor, names: list[str], size: int = SIZE, levels: int = 2, patch: int = 2
) -> None:
    """Write a DiTPipeline whose transformer predicts the clean latent: a class's colour, and a little of what it sees.

    Args:
        folder: Where to.
        means: The colours, (C, 3).
        names: Of the classes.
        size: Side of its images in pixels.
        levels: Of the autoencoder; a latent stands for 2^(levels - 1) pixels a side.
        patch: Latents a side of what the transformer sees as one.
    """
    torch.manual_seed(0)
    transformer = DiTTransformer2DModel(
        num_attention_heads=2, attention_head_dim=16, in_channels=4, out_channels=4, num_layers=1,
        sample_size=size // 2 ** (levels - 1), patch_size=patch, num_embeds_ada_norm=len(names),
    )  # fmt: skip
    block, width = transformer.transformer_blocks[0], 32
    with torch.no_grad():
        embedder, last = block.norm1.emb, (transformer.proj_out_1, transformer.proj_out_2)
        for layer in (embedder.timestep_embedder.linear_2, block.norm1.linear, *last):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        table = embedder.class_embedder.embedding_table.weight  # (C + 1, width), the null class last
        table.fill_(NEAR_LINEAR)
        table[: len(names), :3] += means
        shift, scale = transformer.proj_out_1.bias[:width], transformer.proj_out_1.bias[width:]
        transformer.proj_out_1.weight[:3, :3] = torch.eye(3)
        shift[:3] = -NEAR_LINEAR
        scale.fill_(-0.95)
        for place in range(patch**2):
            transformer.proj_out_2.weight[4 * place : 4 * place + 3, :3] = torch.eye(3)
    scheduler = DDPMScheduler(clip_sample=False, prediction_type="sample")
    DiTPipeline(transformer, _autoencoder(size, levels), scheduler).save_pretrained(folder)
    index = folder / "model_index.json"
    known = {"id2label": {str(label): name for label, name in enumerate(names)}}
    index.write_text(json.dumps({**json.loads(index.read_text()), **known}))


def _autoencoder(size: int, levels: int) -> AutoencoderKL:
    """Return an autoencoder whose decoder enlarges the first three latent channels and does nothing else."""
    vae = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels, up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=(*(8,) * (levels - 1), 16), layers_per_block=1, latent_channels=4, norm_num_groups=1,
        sample_size=size, scaling_factor=1.0,
    )  # fmt: skip
    decoder = vae.decoder
    with torch.no_grad():
        for parameter in decoder.parameters():
            parameter.zero_()
        identities = [vae.post_quant_conv, decoder.conv_in]
        identities += [block.upsamplers[0].conv for block in decoder.up_blocks if block.upsamplers]
        identities += [resnet.conv_shortcut for block in decoder.up_blocks for resnet in block.resnets]
        for conv in filter(None, identities):
            middle, channels = conv.weight.shape[-1] // 2, min(conv.weight.shape[:2])
            nn.init.zeros_(conv.weight)
            nn.init.zeros_(conv.bias)
            conv.weight[range(channels), range(channels), middle, middle] = 1
        # The group norm divides by a spread that large constants make the same for all colours; channel 3 holds minus the
        # mean that it subtracts.
        decoder.conv_in.bias[4:8] = torch.tensor([100.0, -100.0, 100.0, -100.0])
        decoder.conv_norm_out.weight.fill_(100 / 2**0.5)
        decoder.conv_norm_out.bias.fill_(NEAR_LINEAR)
        for channel in range(3):
            decoder.conv_out.weight[channel, [channel, 3], 1, 1] = torch.tensor([1.0, -1.0])
    return vae


def prepare(folder: Path, classes: int) -> None:
    """Write source, teacher and generator of a number of classes."""
    if (folder / "ready").exists():
        return
    shutil.rmtree(folder, ignore_errors=True)
    means, names = colours(classes), [f"colour-{label:04d}" for label in range(classes)]
    write_source(folder / "source", means, names)
    write_teacher(folder / "teacher", means, names)
    write_generator(folder / "generator", means, names)
    atomic_write(folder / "ready", b"")


def measure(folder: Path, recipe: str, classes: int, ipc: int) -> dict:
    """Run a recipe; return seconds by stage, bytes of memory at the peak, and bytes on disk."""
    place, output = folder / f"classes-{classes}", folder / "output"
    prepare(place, classes)
    words = [word.format(place) for word in [*COMMON, *RECIPES[recipe]]]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", f"recipes/{recipe}.py"),
        *(*words, "--ipc", str(ipc), "--view_epochs", "0", "--output_dir", str(output), "--overwrite"),
    ]
    own = {"DISTILL_HUB_CACHE": str(folder / "cache"), "HF_DATASETS_CACHE": str(folder / "datasets")}
    constant = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}
    started = time.perf_counter()
    with open(folder / "log.txt", "w+") as log:
        environment = {**os.environ, **constant, **own}
        process = subprocess.Popen(command, env=environment, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        log.seek(0)
        text = log.read()
    if status:
        raise SystemExit(f"{' '.join(command)}\n{text[-3000:]}")
    stages = {name: float(wall) for name, wall in re.findall(r"│ (\S.*?) +│ +\d+ +│ ([\d.]+) s", text)}
    manifest = json.loads((output / "manifest.json").read_text())
    (record,) = (json.loads(path.read_text()) for path in (output / "evaluations").glob("*.json"))
    files = {path: path.stat().st_size for path in output.rglob("*") if path.is_file()}
    state = {path: size for path, size in files.items() if (output / ".run") in path.parents}
    found = {
        "recipe": recipe,
        "classes": classes,
        "ipc": ipc,
        "seconds": seconds,
        "cpu_seconds": usage.ru_utime + usage.ru_stime,  # of all processes
        "stages": stages,
        "peak": usage.ru_maxrss * 1024,  # of the largest process, from start to end
        "peak_distilling": manifest["environment"]["peak_memory_bytes"]["cpu"],
        "state": sum(state.values()),
        "state_files": len(state),
        "artifact": sum(files.values()) - sum(state.values()),
        "accuracy": record["score"]["last"][0],
    }
    shutil.rmtree(output)
    return found


def fit(x: np.ndarray, y: np.ndarray) -> tuple[float, float, float]:
    """Return slope, intercept and R² of the straight line nearest to some points."""
    slope, intercept = np.polyfit(x, y, 1)
    return slope, intercept, 1 - np.square(y - slope * x - intercept).sum() / np.square(y - y.mean()).sum()


def content(row: dict) -> int:
    """Return the bytes of a set's pixels and soft labels."""
    return row["classes"] * row["ipc"] * (3 * SIZE**2 + 4 * row["classes"])


AXES = {"classes": ("ipc", AT_IPC, "classes"), "ipc": ("classes", AT_CLASSES, "images per class")}  # what is held, and title
MEASURES = {
    "CPU seconds, both processes": lambda row: row["cpu_seconds"],
    "MB of memory, largest process": lambda row: row["peak"] / 1e6,
    "MB on disk, run and artifact": lambda row: (row["state"] + row["artifact"]) / 1e6,
}


def report(rows: list[dict], picture: Path) -> None:
    """Print the tables and draw the plot."""
    columns = (
        "Recipe, Classes, IPC, Time (s), CPU time (s), Stages (s), Peak (MB), before packaging, Artifact (MB), `.run` (MB)"
    )
    names = [*columns.split(", "), "files of it", "its MB per MB of content"]
    print("| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|")
    for row in rows:
        stages = ", ".join(f"{name.split()[0]} {seconds:.1f}" for name, seconds in row["stages"].items() if name != "total")
        megabytes = {name: f"{row[name] / 1e6:.2f}" for name in ("peak", "peak_distilling", "artifact", "state")}
        seconds = f"{row['seconds']:.0f}", f"{row['cpu_seconds']:.1f}"
        cells = [row["recipe"], row["classes"], row["ipc"], *seconds, stages, *megabytes.values()]
        cells += [row["state_files"], f"{row['state'] / content(row):.2f}"]
        print("| " + " | ".join(map(str, cells)) + " |")
    figure = Figure(figsize=(13, 8), dpi=90, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    print("\n| Recipe | What | against | Slope | Intercept | R² |\n" + "|---" * 6 + "|")
    for line, (axis, (held, value, title)) in zip(figure.subplots(2, 3), AXES.items(), strict=True):
        for axes, (what, y_of) in zip(line, MEASURES.items(), strict=True):
            # Soft labels are C numbers each, so that what is stored grows with the content, not with the classes alone.
            against = "MB of content" if "disk" in what else title
            for recipe in dict.fromkeys(row["recipe"] for row in rows):
                chosen = [row for row in rows if row["recipe"] == recipe and row[held] == value]
                x = np.array([content(row) / 1e6 if "disk" in what else row[axis] for row in chosen])
                y = np.array([y_of(row) for row in chosen])
                slope, intercept, r2 = fit(x, y)
                print(f"| {recipe} | {what} | {against} | {slope:.4g} | {intercept:.4g} | {r2:.4f} |")
                (dots,) = axes.plot(x, y, "o", markersize=5, label=f"{recipe}: {slope:.3g} x + {intercept:.3g}, R² {r2:.4f}")
                ends = np.array([x.min(), x.max()])
                axes.plot(ends, slope * ends + intercept, color=dots.get_color(), linewidth=1)
            axes.set(xlabel=against, ylabel=what, title=f"{value} {AXES[held][2]}")
            axes.set_ylim(bottom=0)
            axes.legend(fontsize=7, frameon=False)
            axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(picture, metadata={"Software": None})
    print(f"\nThe plot is {picture}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="holds everything")
    parser.add_argument("--recipes", nargs="+", default=list(RECIPES), choices=RECIPES)
    parser.add_argument("--classes", nargs="+", type=int, default=CLASSES)
    parser.add_argument("--ipcs", nargs="+", type=int, default=IPCS)
    args = parser.parse_args()
    folder = args.folder.resolve()
    shapes = dict.fromkeys([(classes, AT_IPC) for classes in args.classes] + [(AT_CLASSES, ipc) for ipc in args.ipcs])
    rows = []
    for recipe in args.recipes:
        for classes, ipc in shapes:
            kept = folder / "measured" / f"{recipe}-{classes}-{ipc}.json"
            if not kept.exists():
                atomic_write(kept, json.dumps(measure(folder, recipe, classes, ipc)).encode())
                print(kept.read_text(), flush=True)
            rows.append(json.loads(kept.read_text()))
    report(rows, folder / "scale.png")


if __name__ == "__main__":
    main()
