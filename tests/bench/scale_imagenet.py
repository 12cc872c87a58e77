"""Memory, bytes read and time of sets as large as ImageNet's: 1,000 classes, up to 10 images of each, 224 px.

    python tests/bench/scale_imagenet.py --folder outputs/imagenet
    python tests/bench/scale_imagenet.py --folder outputs/imagenet --code path/to/another/checkout --label before

Classes are colours as in `scale.py`, in JPEGs of ImageNet's usual size; teacher and generator have weights written by hand,
and students are trained for one epoch. Every recipe is run with torchrun and gloo, from an empty cache, while all its
processes are watched: memory that is theirs alone (anonymous), pages of mapped files, bytes read. A run that takes more than
`--limit` in all is stopped, and counts as that. The same command goes on where it was stopped, and ends with the tables.
"""

import argparse
import contextlib
import io
import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import psutil
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).parent))
from scale import ROOT, colours, fit, write_generator, write_teacher

from distill_hub.disk.files import atomic_write

CLASSES, SIZE = 1000, 224
TRAIN, TEST, STORED = 20, 5, (500, 375)  # images of a class; sides in pixels, as most of ImageNet's
SHAPES = ("1000x10", "1000x5", "1000x1", "500x10", "250x10")
IMAGENET = (1_281_167, 50_000)  # images to train and to test on
NETWORK = "convnet-5-w3-bn"  # of teacher and student: its activations take no more than the batch of images
EVERY = 0.05  # seconds between two looks at the processes
RECIPES = {
    "random_real": [],
    "herding": [],
    "cao2": [
        *("--generator", "{}/generator", "--guidance_scale", "1", "--sample_steps", "2", "--pool_factor", "2"),
        *("--refine_steps", "2"),
    ],
    "sre2l": ["--recover_steps", "2"],
}
COMMON = ["--teacher", "{}/teacher", "--students", NETWORK, "--repeats", "1", "--view_epochs", "0"]


def write_images(folder: Path, means: torch.Tensor, names: list[str]) -> None:
    """Write a folder of JPEGs like ImageNet's: one picture a class, whose files differ in a comment."""
    draw = np.random.default_rng(0)
    coarse = draw.normal(0, 10, (12, 16, 3))
    cloud = np.stack([np.array(Image.fromarray(coarse[..., c].astype(np.float32)).resize(STORED)) for c in range(3)], 2)
    for name, mean in zip(names, ((means + 1) * 127.5).numpy(), strict=True):
        pixels = mean + cloud + draw.normal(0, 7, (*STORED[::-1], 3))
        buffer = io.BytesIO()
        Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, "JPEG", quality=94)
        data = buffer.getvalue()
        for split, count in {"train": TRAIN, "val": TEST}.items():
            (folder / split / name).mkdir(parents=True)
            for place in range(count):
                words = f"{split} {name} {place:04d}".encode()
                comment = b"\xff\xfe" + (len(words) + 2).to_bytes(2, "big") + words
                (folder / split / name / f"{place:04d}.jpg").write_bytes(data[:2] + comment + data[2:])


def prepare(folder: Path, classes: int) -> Path:
    """Write source, teacher and generator of all classes, once; return the source with the first `classes` of them."""
    if not (folder / "ready").exists():
        shutil.rmtree(folder, ignore_errors=True)
        means, names = colours(CLASSES), [f"colour-{label:04d}" for label in range(CLASSES)]
        write_images(folder / f"source-{CLASSES}", means, names)
        write_teacher(folder / "teacher", means, names, NETWORK, SIZE)
        write_generator(folder / "generator", means, names, SIZE, levels=4, patch=4)
        atomic_write(folder / "ready", b"")
    whole, source = folder / f"source-{CLASSES}", folder / f"source-{classes}"
    if not source.exists():
        making = source.with_suffix(".tmp")
        shutil.rmtree(making, ignore_errors=True)
        for split in ("train", "val"):
            for own in sorted((whole / split).iterdir())[:classes]:
                shutil.copytree(own, making / split / own.name, copy_function=os.link)
        making.rename(source)
    return source


class Watch:
    """What the processes of a run take, from looks at them; the one that starts them is not among these."""

    def __init__(self, main: int):
        self.main = psutil.Process(main)
        self.processes: dict[int, dict[str, int]] = {}
        self.most = {"anonymous": 0, "file": 0, "all": 0, "mapped_once": 0}  # at one time, all together
        self.alive: list[int] = []
        self.looked_closely = 0.0

    def look(self) -> int:
        """Look once; return the bytes of memory that all hold now, mapped files left out."""
        now = {"anonymous": 0, "file": 0}
        if time.monotonic() - self.looked_closely > 1:  # it takes a while
            self.alive = [process.pid for process in self.main.children(recursive=True)]
            now["mapped_once"] = sum(self._proportional(pid) for pid in self.alive)
            self.looked_closely = time.monotonic()
        for pid in self.alive:
            try:
                status, said = (Path(f"/proc/{pid}/{file}").read_text() for file in ("status", "io"))
            except (OSError, psutil.Error):  # it has just ended
                continue
            memory = {name: int(size) * 1024 for name, size in re.findall(r"^(\w+):\s+(\d+) kB$", status, re.MULTILINE)}
            if "RssAnon" not in memory:
                continue
            known = self.processes.setdefault(pid, {"anonymous": 0, "file": 0})
            for name, held in {"anonymous": memory["RssAnon"] + memory["RssShmem"], "file": memory["RssFile"]}.items():
                known[name] = max(known[name], held)
                now[name] += held
            known |= {name: int(count) for name, count in re.findall(r"^(\w+): (\d+)$", said, re.MULTILINE)}
        now["all"] = now["anonymous"] + now["file"]
        self.most = {name: max(held, now.get(name, 0)) for name, held in self.most.items()}
        return now["anonymous"]

    @staticmethod
    def _proportional(pid: int) -> int:
        """Return the bytes of a process where what several share counts once in all."""
        try:
            said = Path(f"/proc/{pid}/smaps_rollup").read_text()
        except OSError:
            return 0
        return 1024 * int(re.search(r"^Pss:\s+(\d+)", said, re.MULTILINE)[1])

    def stop(self) -> None:
        """End all of them."""
        for process in [*self.main.children(recursive=True), self.main]:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()


def run(folder: Path, code: Path, recipe: str, classes: int, ipc: int, processes: int, limit: float) -> dict:
    """Run a recipe; return what it took, as far as it came."""
    source, output, cache = prepare(folder, classes), folder / "output", folder / "cache"
    for old in (output, cache):
        shutil.rmtree(old, ignore_errors=True)
    words = [word.format(folder) for word in [*COMMON, *RECIPES[recipe]]]
    words += [] if recipe == "cao2" else ["--image_size", str(SIZE)]
    command = [
        *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", str(processes)),
        *(str(ROOT / "tests/bench/one_epoch.py"), str(code / f"recipes/{recipe}.py"), "--source", str(source)),
        *(*words, "--ipc", str(ipc), "--output_dir", str(output)),
    ]
    constant = {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "passive", "HF_HUB_OFFLINE": "1"}
    own = {"DISTILL_HUB_CACHE": str(cache), "PYTHONPATH": str(code), "TQDM_DISABLE": "1"}
    log, stopped = folder / "log.txt", None
    started = time.perf_counter()
    with open(log, "w") as opened:
        child = subprocess.Popen(
            command, env={**os.environ, **constant, **own}, cwd=code, stdout=opened, stderr=subprocess.STDOUT
        )
        watch = Watch(child.pid)
        while (ended := os.wait4(child.pid, os.WNOHANG))[0] == 0:
            if watch.look() > limit and not stopped:
                stopped = "its processes took more memory than the limit"
                watch.stop()
            time.sleep(EVERY)
    seconds, (_, status, usage), text = time.perf_counter() - started, ended, log.read_text()
    if status and not stopped:
        raise SystemExit(f"{' '.join(command)}\n{text[-3000:]}")
    state = [path.stat().st_size for path in (output / ".run").rglob("*") if path.is_file()]
    whole = [path.stat().st_size for path in output.rglob("*") if path.is_file()]
    kept = [path.stat().st_size for path in cache.rglob("*") if path.is_file()]
    manifest = json.loads(file.read_text()) if (file := output / "manifest.json").exists() else {"stages": []}
    found = {
        **{"recipe": recipe, "classes": classes, "ipc": ipc, "processes": processes, "stopped": stopped},
        **{"last_line": text.strip().rpartition("\n")[2], "seconds": seconds},
        "cpu_seconds": usage.ru_utime + usage.ru_stime,
        "stages": {name: float(wall) for name, wall in re.findall(r"│ (\S.*?) +│ +[\d,]+ +│ ([\d.]+) s", text)},
        "core_seconds": {stage["name"]: stage.get("core_seconds") for stage in manifest["stages"]},
        "most": watch.most,
        "each": sorted(watch.processes.values(), key=lambda known: -known["anonymous"])[:processes],
        "read": sum(known.get("rchar", 0) for known in watch.processes.values()),
        "read_from_disk": sum(known.get("read_bytes", 0) for known in watch.processes.values()),
        **{"state": sum(state), "state_files": len(state), "artifact": sum(whole) - sum(state), "cache": sum(kept)},
    }
    for old in (output, cache):
        shutil.rmtree(old, ignore_errors=True)
    return found


def report(rows: list[dict]) -> None:
    """Print what every run took, straight lines, and where they lead."""
    names = "Recipe, Processes, Classes, IPC, Time (s), CPU time (s), Stages (s), Largest process (GB), all (GB), "
    names += "mapped by one (GB), all with shared pages once (GB), Read (GB), `.run` (GB), Artifact (GB)"
    names = names.split(", ")
    print("| " + " | ".join(names) + " |\n" + "|---" * len(names) + "|")
    for row in rows:
        stages = ", ".join(f"{name.split()[0]} {seconds:.1f}" for name, seconds in row["stages"].items() if name != "total")
        cells = [row["recipe"], row["processes"], row["classes"], row["ipc"], f"{row['seconds']:.0f}"]
        cells += [f"{row['cpu_seconds']:.0f}", f"stopped: {row['stopped']}" if row["stopped"] else stages]
        sizes = [row["each"][0]["anonymous"], row["most"]["anonymous"], max(known["file"] for known in row["each"])]
        sizes += [row["most"]["mapped_once"], row["read"], row["state"], row["artifact"]]
        print("| " + " | ".join([*map(str, cells), *(f"{size / 1e9:.2f}" for size in sizes)]) + " |")
    print("\n| Recipe | Processes | What | Images | Slope | Intercept | R² | at 1,000 x IPC 200 |\n" + "|---" * 8 + "|")
    measures = {
        "GB of anonymous memory, largest process": lambda row: row["each"][0]["anonymous"] / 1e9,
        "GB read, all processes": lambda row: row["read"] / 1e9,
        "seconds of CPU, all processes": lambda row: row["cpu_seconds"],
    }
    for recipe, processes in dict.fromkeys((row["recipe"], row["processes"]) for row in rows):
        alike = [row for row in rows if row["recipe"] == recipe and row["processes"] == processes and not row["stopped"]]
        chosen = [row for row in alike if row["classes"] == CLASSES]
        if len(chosen) < 2:
            continue
        images = np.array([row["classes"] * row["ipc"] for row in chosen])
        for what, of in measures.items():
            slope, intercept, r2 = fit(images, np.array([of(row) for row in chosen]))
            numbers = f"{slope:.3g} | {intercept:.3g} | {r2:.4f} | {slope * CLASSES * 200 + intercept:.3g}"
            print(f"| {recipe} | {processes} | {what} | {', '.join(f'{count:,}' for count in images)} | {numbers} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True, help="holds everything: 3 GB, and what a run writes")
    parser.add_argument("--code", type=Path, default=ROOT, help="the checkout whose recipes are run")
    parser.add_argument("--label", default="after", help="of the figures")
    parser.add_argument("--recipes", nargs="+", default=["random_real", "herding", "cao2"], choices=RECIPES)
    parser.add_argument("--processes", nargs="+", type=int, default=[2])
    parser.add_argument("--shapes", nargs="+", default=SHAPES, help="classes x images per class")
    parser.add_argument("--limit", type=float, default=18, help="GB of memory, all processes together")
    args = parser.parse_args()
    folder, rows = args.folder.resolve(), []
    for recipe in args.recipes:
        for processes in args.processes:
            for shape in args.shapes:
                kept = folder / "measured" / args.label / f"{recipe}-{processes}-{shape}.json"
                if not kept.exists():
                    sizes = (*map(int, shape.split("x")), processes, args.limit * 1e9)
                    found = run(folder / "work", args.code.resolve(), recipe, *sizes)
                    atomic_write(kept, json.dumps(found, indent=1).encode())
                rows.append(json.loads(kept.read_text()))
    report(rows)


if __name__ == "__main__":
    main()
