"""Teachers and generators whose configurations and weights are not what they should be: every field, every wrong value."""

import json
import math
import shutil
from collections.abc import Callable, Iterator
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import timm
import torch
from helpers import make_pipeline
from safetensors.torch import load_file, save_file
from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

from distill_hub.classifiers import save_network
from distill_hub.networks.build import ConvNet
from tests.bench.hostile.attack import Attack, either, refused, scratch

CLASSES = ["a", "b"]
GONE = object()  # the field is left out
VALUES = [
    GONE,
    None,
    True,
    0,
    -1,
    1,
    7,
    3.5,
    10**9,
    math.nan,
    math.inf,
    "",
    "x",
    "1",
    [],
    [1, 2],
    ["x"],
    [None],
    {},
    {"0": "x"},
]
# Fields that the sound files lack.
MORE = {
    ("own", "config.json"): {"labels": CLASSES, "model_args": {}},
    ("timm", "config.json"): {
        "label_names": CLASSES,
        "model_args": {
            **dict.fromkeys(("in_chans", "img_size", "num_classes", "drop_rate", "global_pool", "act_layer", "layers"), 3),
            **dict.fromkeys(("cache_dir", "checkpoint_path", "pretrained", "pretrained_cfg", "pretrained_cfg_overlay"), "x"),
            **dict.fromkeys(("scriptable", "features_only", "out_indices", "device", "dtype", "output_stride", "pruned"), 1),
        },
    },
    ("transformers", "config.json"): {
        "auto_map": {"AutoConfig": "theirs.Owned", "AutoModelForImageClassification": "theirs.Owned"},
        "quantization_config": {"quant_method": "bitsandbytes"},
        "num_labels": 2,
    },
    ("transformers", "preprocessor_config.json"): {
        "auto_map": {"AutoImageProcessor": "theirs.Owned"},
        **dict.fromkeys(("crop_pct", "do_center_crop", "crop_size", "do_pad", "do_convert_grayscale"), 1),
    },
    ("generator", "model_index.json"): {"id2label": {"0": "a", "1": "b"}},
    ("generator", "transformer/config.json"): {"quantization_config": {}, "config": None, "auto_map": {}},
    ("generator", "vae/config.json"): {"quantization_config": {}},
    ("generator", "scheduler/scheduler_config.json"): {"rescale_betas_zero_snr": False},
}


def _own(folder: Path) -> None:
    torch.manual_seed(0)
    save_network(ConvNet(2, 2, 16, 16), folder, "convnet-2-w16", CLASSES, 16)


def _timm(folder: Path) -> None:
    model = timm.create_model("test_resnet", num_classes=2)
    save_network(model, folder, "timm/test_resnet", CLASSES, 32)


def _transformers(folder: Path) -> None:
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "patch_size": 8}
    config = ViTConfig(**shape, image_size=32, id2label=dict(enumerate(CLASSES)))
    ViTForImageClassification(config).save_pretrained(folder)
    ViTImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)


def _generator(folder: Path) -> None:
    make_pipeline(2).save_pretrained(folder)
    index = folder / "model_index.json"
    index.write_text(json.dumps({**json.loads(index.read_text()), "id2label": dict(enumerate(CLASSES))}))


WRITERS = {"own": _own, "timm": _timm, "transformers": _transformers, "generator": _generator}


@cache
def sound(kind: str) -> Path:
    """Return a sound folder of a kind."""
    folder = scratch() / kind
    folder.mkdir()
    WRITERS[kind](folder)
    return folder


def places(content: Any, path: tuple = ()) -> Iterator[tuple]:
    """Yield where the fields of a JSON content are, and the first element of each list."""
    if path:
        yield path
    if isinstance(content, dict):
        for key, value in content.items():
            yield from places(value, (*path, key))
    elif isinstance(content, list) and content:
        yield from places(content[0], (*path, 0))


def changed(content: Any, path: tuple, value: Any) -> Any:
    """Return a JSON content with another value at one place."""
    content = json.loads(json.dumps(content))
    holder = content
    for key in path[:-1]:
        holder = holder[key]
    if value is GONE:
        del holder[path[-1]]
    else:
        holder[path[-1]] = value
    return content


def of_fields(kind: str) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Yield every field of every configuration of a kind with every wrong value: what it is, and what writes it."""
    for file in sorted(sound(kind).rglob("*.json")):
        name = file.relative_to(sound(kind)).as_posix()
        content = json.loads(file.read_text())
        for whole in (None, [], "x", 3, {}):
            yield f"{name} is {whole!r}", partial(_write, kind, name, json.dumps(whole))
        for text in ("", "{", "\xff", "[" * 100_000, '{"a": ' * 100_000):
            yield f"{name} is the text {text[:8]!r}", partial(_write, kind, name, text)
        content = {**content, **MORE.get((kind, name), {})}
        for path in places(content):
            here = content
            for key in path:
                here = here[key]
            lengths = [here[:-1], here * 2] if isinstance(here, list) else []
            for value in [*VALUES, *lengths, "../../etc/passwd", "x" * 100_000, "\u202e[/red]\x1b[31m"]:
                said = "gone" if value is GONE else repr(value)[:40]
                field = ".".join(map(str, path))
                yield f"{name}: {field} {said}", partial(_write, kind, name, path=path, value=value)


def _write(
    kind: str, name: str, text: str | None = None, folder: Path = Path(), *, path: tuple = (), value: Any = None
) -> None:
    shutil.copytree(sound(kind), folder, dirs_exist_ok=True)
    if text is None:
        content = json.loads((folder / name).read_text())
        more = MORE.get((kind, name), {})
        content |= {path[0]: more[path[0]]} if path[0] in more else {}
        if path[0] == "model_args":  # one of the arguments at a time
            content["model_args"] = {key: of for key, of in content["model_args"].items() if key in path[1:2]}
        text = json.dumps(changed(content, path, value))
    (folder / name).write_text(text, encoding="latin-1" if text == "\xff" else "utf-8")
    for code in ("theirs.py", "modeling.py", "transformer/theirs.py"):
        if (folder / code).parent.is_dir():
            (folder / code).write_text("open('owned', 'w')\nclass Owned: pass\n")


def of_weights(kind: str) -> Iterator[tuple[str, Callable[[Path], None]]]:
    """Yield damaged weights of a kind: what is wrong, and what writes it."""

    def one(change: Callable[[Path], None], file: str, folder: Path) -> None:
        shutil.copytree(sound(kind), folder, dirs_exist_ok=True)
        change(folder / file)

    def tensors(change: Callable[[dict], None], file: Path) -> None:
        content = load_file(file)
        change(content)
        save_file(content, file, metadata={"format": "pt"})

    def index(content: Any, file: Path) -> None:
        file.rename(file.with_name("moved.safetensors"))
        file.with_name(f"{file.name}.index.json").write_text(json.dumps(content))

    def pickled(file: Path) -> None:
        torch.save(load_file(file), file.with_name("pytorch_model.bin"))
        file.unlink()

    for weights in sorted(sound(kind).rglob("*.safetensors")):
        file = weights.relative_to(sound(kind)).as_posix()
        key = sorted(load_file(weights))[0]
        changes: dict[str, Callable[[dict], Any]] = {
            "one is missing": lambda content, key=key: content.pop(key),
            "one is too many": lambda content: content.update(extra=torch.zeros(3)),
            "one is called with codes": lambda content: content.update({"\x1b[31m\u202e": torch.zeros(3)}),
            "of another shape": lambda content, key=key: content.update({key: torch.zeros(3, 5)}),
            "not a number": lambda content, key=key: content[key].fill_(math.nan),
            "infinite": lambda content, key=key: content[key].fill_(math.inf),
            "none at all": lambda content: content.clear(),
        }
        for what, change in changes.items():
            yield f"{file}: {what}", partial(one, partial(tensors, change), file)
        yield f"{file}: truncated", partial(one, lambda path: path.write_bytes(path.read_bytes()[:200]), file)
        yield f"{file}: empty", partial(one, lambda path: path.write_bytes(b""), file)
        yield f"{file}: a pickle alone", partial(one, pickled, file)
        yield f"{file}: not there", partial(one, Path.unlink, file)
        for what in ("text", [], {}, {"weight_map": "x"}, {"weight_map": {}}, {"weight_map": {key: "../../x.safetensors"}}):
            yield f"{file}: an index {what!r}"[:70], partial(one, partial(index, what), file)
        for shard in ("moved.safetensors", "/etc/passwd", "none.safetensors", "x.bin", None, 3):
            yield f"{file}: an index of {shard!r}", partial(one, partial(index, {"weight_map": {key: shard}}), file)


def _source(folder: Path) -> None:
    for split, count in (("train", 4), ("test", 2)):
        for label, name in enumerate(CLASSES):
            (folder / split / name).mkdir(parents=True)
            for number in range(count):
                pixels = np.random.default_rng(number).integers(0, 60, (32, 32, 3)).astype(np.uint8)
                pixels[..., label] += 120
                PIL.Image.fromarray(pixels).save(folder / split / name / f"{number}.png")


def _build(kind: str, write: Callable[[Path], None], folder: Path) -> list[str]:
    _source(folder / "src")
    write(folder=folder / "model")
    little = ["--source", "src", "--ipc", "1", "--students", "convnet-1-w16", "--repeats", "1", "--output_dir", "out"]
    if kind == "generator":
        return ["make", "dit", *little, "--generator", "model", "--sample_steps", "1", "--teacher_epochs", "1"]
    return ["make", "random_real", *little, "--teacher", "model"]


def attacks() -> Iterator[Attack]:
    """Yield them."""
    for kind in WRITERS:
        for name, write in of_fields(kind):
            yield Attack(f"models: {kind}", name, partial(_build, kind, write), either)
        for name, write in of_weights(kind):
            yield Attack(f"models: weights of {kind}", name, partial(_build, kind, write), refused)
