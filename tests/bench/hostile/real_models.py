"""Teachers as people have them: what each says of an image must be what its own library says of it, class by class."""

import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pyarrow.parquet as pq
import timm
import torch
import transformers
from safetensors.torch import load_file, save_file
from torch.nn import functional as F
from torchvision import models

from tests.bench.hostile.attack import Attack, Outcome, either, refused, used
from tests.bench.hostile.foreign import CLASSES, encoded, pixels, placed, told, write

ORDER = ["green", "blue", "red"]  # of the logits; the source sorts its classes
SIDE = 40
NAMES = {"id2label": dict(enumerate(ORDER)), "label2id": {name: place for place, name in enumerate(ORDER)}}
BATCH = [PIL.Image.fromarray(pixels(k, n, SIDE)) for k in range(3) for n in range(100, 104)]
TARGETS = torch.tensor([ORDER.index(CLASSES[k]) for k in range(3) for _ in range(4)])
Look = Callable[[list[PIL.Image.Image]], torch.Tensor]  # from images to probabilities in ORDER


def learn(model: torch.nn.Module, inputs: torch.Tensor, steps: int = 80) -> None:
    """Let a network tell the colours apart."""
    torch.set_num_threads(1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    model.train()
    for _ in range(steps):
        output = model(inputs)
        loss = F.cross_entropy(output if isinstance(output, torch.Tensor) else output.logits, TARGETS)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        if loss < 0.02:
            break
    for _ in range(20):  # statistics of batch norms
        with torch.no_grad():
            model(inputs)
    model.eval()


def agrees(outcome: Outcome, look: Look) -> str | None:
    """Say what is wrong, if anything, where each soft label must be what the teacher's own library says."""
    if wrong := used(outcome):
        return wrong
    names = [c["name"] for c in json.loads((outcome.folder / "out/manifest.json").read_text())["classes"]]
    rows = pq.read_table(outcome.folder / "out/data").to_pylist()
    theirs = look([PIL.Image.open(io.BytesIO(row["image"]["bytes"])).convert("RGB") for row in rows])
    ours = np.array([row["soft_label"] for row in rows])
    gap = np.abs(ours - theirs.numpy()[:, [ORDER.index(name) for name in names]]).max()
    return f"its soft labels are up to {gap:.3f} off" if gap > 0.03 else None


def attack(kind: str, name: str, make: Callable[[Path], Look | None], right: Any = None, teacher: str = "model") -> Attack:
    """An attack; `make` writes the folder of the teacher and returns how its own library sees images."""
    looks: dict[str, Look | None] = {}

    def build(folder: Path) -> list[str]:
        for split, count in (("train", 4), ("test", 3)):
            for k, c in enumerate(CLASSES):
                for n in range(count):
                    write(folder / "src" / split / c / f"{n}.png", encoded(k, n + 10 * (split == "test"), size=SIDE))
        for k, c in enumerate(CLASSES):
            write(folder / "set" / c / "0.png", encoded(k, 50, size=SIDE))
        torch.manual_seed(0)
        looks["own"] = make(folder / "model")
        return ["adopt", "set", "--source", "src", "--method", "dm", "--output_dir", "out", "--teacher", teacher]

    def judge(outcome: Outcome) -> str | None:
        if right is not None:
            return right(outcome)
        if outcome.code == 2 or looks["own"] is None:
            return refused(outcome)
        return agrees(outcome, looks["own"])

    return Attack(f"real teachers: {kind}", name, build, judge)


# transformers

PATCHES = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 16,
    "patch_size": 8,
    "image_size": 32,
}
SMALL: dict[str, dict[str, Any]] = {
    "ViT": PATCHES,
    "DeiT": PATCHES,
    "Beit": PATCHES | {"num_hidden_layers": 4},
    "Dinov2": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "patch_size": 8, "image_size": 32},
    "ViTMSN": PATCHES,
    "ResNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "layer_type": "basic"},
    "RegNet": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "groups_width": 8},
    "ConvNext": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "patch_size": 4},
    "ConvNextV2": {"hidden_sizes": [8, 16], "depths": [1, 1], "num_stages": 2, "patch_size": 4},
    "Swin": {"embed_dim": 8, "depths": [1, 1], "num_heads": [1, 2], "window_size": 4, "image_size": 32, "patch_size": 4},
    "PoolFormer": {
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
        "num_encoder_blocks": 2,
        "patch_sizes": [7, 3],
        "strides": [4, 2],
        "padding": [2, 1],
    },
    "MobileNetV1": {"depth_multiplier": 0.25, "image_size": 32},
    "MobileNetV2": {"depth_multiplier": 0.35, "image_size": 32},
    "EfficientNet": {"width_coefficient": 0.25, "depth_coefficient": 0.1, "image_size": 32, "hidden_dim": 320},
    "Segformer": {
        "hidden_sizes": [8, 16, 24, 32],
        "depths": [1, 1, 1, 1],
        "num_attention_heads": [1, 1, 1, 1],
        "decoder_hidden_size": 16,
    },
    "MobileViT": {"hidden_sizes": [16, 24, 32], "neck_hidden_sizes": [8, 16, 24, 32, 40, 48, 64], "image_size": 32},
    "FocalNet": {
        "embed_dim": 8,
        "depths": [1, 1],
        "image_size": 32,
        "hidden_sizes": [8, 16],
        "focal_levels": [1, 1],
        "focal_windows": [3, 3],
    },
    "Bit": {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1], "num_groups": 4},
    "LevIT": {
        "image_size": 64,
        "hidden_sizes": [16, 24, 32],
        "depths": [1, 1, 1],
        "num_attention_heads": [1, 2, 2],
        "key_dim": [8, 8, 8],
    },
    "SwiftFormer": {"image_size": 64, "depths": [1, 1, 1, 1], "embed_dims": [8, 16, 24, 32]},
    "TextNet": {"image_size": 64},
    "Siglip": {},
    "CLIP": {},
}
CONFIGS = {"Siglip": "SiglipConfig", "CLIP": "CLIPConfig"}
PROCESSORS = {
    "ResNet": "ConvNextImageProcessor",
    "RegNet": "ConvNextImageProcessor",
    "ConvNextV2": "ConvNextImageProcessor",
    "Dinov2": "BitImageProcessor",
    "Swin": "ViTImageProcessor",
    "ViTMSN": "ViTImageProcessor",
    "FocalNet": "BitImageProcessor",
    "SwiftFormer": "ViTImageProcessor",
    "LevIT": "LevitImageProcessor",
}


def of_transformers(
    kind: str,
    processor: dict[str, Any] | None = None,
    change: Callable[[Path], None] | None = None,
    dtype: torch.dtype = torch.float32,
    **config: Any,
) -> Callable[[Path], Look | None]:
    """A classifier of transformers, as `save_pretrained` writes it."""

    def make(folder: Path) -> Look | None:
        vision = {
            "vision_config": SMALL["ViT"],
            "text_config": {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16},
        }
        own = {**(vision if kind in CONFIGS else SMALL[kind]), **NAMES, **config}
        shape = getattr(transformers, CONFIGS.get(kind, f"{'Levit' if kind == 'LevIT' else kind}Config"))(**own)
        shape.architectures = []
        model = transformers.AutoModelForImageClassification.from_config(shape)
        name = PROCESSORS.get(kind, f"{kind}ImageProcessor")
        side = 64 if kind in ("LevIT", "SwiftFormer", "TextNet") else 32
        sizes = {
            "size": {"shortest_edge": side}
            if "Conv" in name
            or kind
            in (
                "MobileNetV1",
                "MobileNetV2",
                "MobileViT",
                "LevIT",
                "TextNet",
                "FocalNet",
                "Dinov2",
                "PoolFormer",
                "CLIP",
                "Bit",
            )
            else {"height": side, "width": side},
            "crop_size": {"height": side, "width": side},
        }
        own_processor = getattr(transformers, name)(**{**sizes, **(processor or {})})
        grey = config.get("num_channels") == 1
        runs = True
        try:
            seen = own_processor([image.convert("L") for image in BATCH] if grey else BATCH, return_tensors="pt")
            learn(model, seen["pixel_values"].float())
        except (RuntimeError, ValueError):  # the library itself cannot do it
            runs = False
        model.to(dtype).save_pretrained(folder)
        own_processor.save_pretrained(folder)
        if change:
            change(folder)
        model.float()

        def look(own: list[PIL.Image.Image]) -> torch.Tensor:
            with torch.inference_mode():
                return model(own_processor(own, return_tensors="pt")["pixel_values"].float()).logits.double().softmax(1)

        return look if runs else None

    return make


def edit(file: str, **fields: Any) -> Callable[[Path], None]:
    """Change fields of a JSON file; ... takes one out."""

    def change(folder: Path) -> None:
        content = {**json.loads((folder / file).read_text()), **fields}
        (folder / file).write_text(json.dumps({key: value for key, value in content.items() if value is not ...}))

    return change


def teachers() -> Iterator[Attack]:
    for kind in SMALL:
        yield attack("transformers", kind, of_transformers(kind))
    flags: dict[str, dict[str, Any]] = {
        "no normalisation": {"do_normalize": False},
        "no scaling": {"do_rescale": False, "image_mean": [127.5] * 3, "image_std": [127.5] * 3},
        "no scaling, no normalisation": {"do_rescale": False, "do_normalize": False},
        "mean of one number": {"image_mean": 0.5, "image_std": 0.25},
        "whole numbers": {"image_mean": [0, 0, 0], "image_std": [1, 1, 1]},
        "ImageNet": {"image_mean": [0.485, 0.456, 0.406], "image_std": [0.229, 0.224, 0.225]},
        "to -1 and 1": {"rescale_factor": 1 / 127.5, "image_mean": [1.0] * 3, "image_std": [1.0] * 3},
        "bicubic": {"resample": 3},
        "nearest": {"resample": 0},
        "Lanczos": {"resample": 1},
        "box": {"resample": 4},
        "not square": {"size": {"height": 32, "width": 24}},
        "grey to RGB": {"do_convert_rgb": True},
        "odd std": {"image_std": [0.01, 5.0, 1.0]},
    }
    for name, processor in flags.items():
        yield attack("processors", f"ViT, {name}", of_transformers("ViT", processor))
    crops: dict[str, dict[str, Any]] = {
        "crop within": {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}},
        "crop of an odd rest": {"size": {"shortest_edge": 37}, "crop_size": {"height": 32, "width": 32}},
        "crop beyond": {"size": {"shortest_edge": 24}, "crop_size": {"height": 32, "width": 32}},
        "crop alone": {"do_resize": False, "do_center_crop": True},
        "resize alone": {"do_center_crop": False},
        "neither": {"do_resize": False, "do_center_crop": False},
    }
    for name, processor in crops.items():
        yield attack("processors", f"Bit, {name}", of_transformers("Bit", processor))
        yield attack("processors", f"ViT of Bit's, {name}", of_transformers("CLIP", processor))
    for pct in (0.875, 1.0, 0.5):
        yield attack("processors", f"ConvNeXt, crop_pct {pct}", of_transformers("ConvNext", {"crop_pct": pct}))
    files: dict[str, Callable[[Path], None]] = {
        "an older name": edit(
            "preprocessor_config.json", image_processor_type=..., feature_extractor_type="ViTFeatureExtractor"
        ),
        "size as a number": edit("preprocessor_config.json", size=32),
        "Fast": edit("preprocessor_config.json", image_processor_type="ViTImageProcessorFast"),
        "no names": edit("config.json", id2label=..., label2id=...),
        "names of none": edit("config.json", id2label={str(k): f"LABEL_{k}" for k in range(3)}, label2id=...),
        "names in capitals": edit(
            "config.json", id2label={str(k): name.upper() for k, name in enumerate(ORDER)}, label2id=...
        ),
        "synonyms": edit(
            "config.json", id2label={str(k): f"{name}, the colour {name}" for k, name in enumerate(ORDER)}, label2id=...
        ),
        "names in another order of keys": edit("config.json", id2label={str(k): ORDER[k] for k in (2, 0, 1)}, label2id=...),
        "a name twice": edit("config.json", id2label={"0": "red", "1": "red", "2": "blue"}, label2id=...),
        "a stale label2id": edit("config.json", label2id={"red": 0, "green": 1, "blue": 2}),
        "problem_type": edit("config.json", problem_type="regression"),
        "multi-label": edit("config.json", problem_type="multi_label_classification"),
        "no processor": lambda f: (f / "preprocessor_config.json").unlink(),
        "no weights": lambda f: (f / "model.safetensors").unlink(),
        "no architectures": edit("config.json", architectures=...),
        "an architecture of another task": edit("config.json", architectures=["ViTModel"]),
        "half precision on record": edit("config.json", dtype="float16"),
        "another image_size": edit("config.json", image_size=64),
        "training's files beside": lambda f: [
            write(f / n, b"\x80garbage")
            for n in ("optimizer.pt", "training_args.bin", "rng_state.pth", "trainer_state.json")
        ],
    }
    for name, change in files.items():
        yield attack("files", f"ViT, {name}", of_transformers("ViT", change=change))
    for dtype in (torch.float16, torch.bfloat16):
        yield attack("files", f"ViT in {dtype}", of_transformers("ViT", dtype=dtype))
        yield attack("files", f"ResNet in {dtype}", of_transformers("ResNet", dtype=dtype))

    def renamed(prefix: str) -> Callable[[Path], None]:
        def change(folder: Path) -> None:
            file = folder / "model.safetensors"
            save_file({prefix + key: value for key, value in load_file(file).items()}, file, metadata={"format": "pt"})

        return change

    for prefix in ("module.", "_orig_mod.", "model.", "teacher."):
        yield attack("files", f"ViT, tensors called {prefix}", of_transformers("ViT", change=renamed(prefix)), told(prefix))
    grey = {"num_channels": 1}
    yield attack(
        "files",
        "a grey ViT",
        of_transformers("ViT", {"image_mean": [0.5], "image_std": [0.5]}, **grey),
        either,
    )
    more = {"id2label": {**dict(enumerate(ORDER)), 3: "background"}, "label2id": {}}
    yield attack("files", "a class more", of_transformers("ViT", **more), lambda o: placed(o) if o.code == 0 else refused(o))

    def of_timm(
        name: str, labels: str | None = "label_names", change: Callable[[Path], None] | None = None, **arguments: Any
    ) -> Callable[[Path], Look]:
        def make(folder: Path) -> Look:
            model = timm.create_model(name, num_classes=3, **arguments)
            data = timm.data.resolve_model_data_config(model)
            transform = timm.data.create_transform(**{**data, "input_size": data["input_size"]}, is_training=False)
            learn(model, torch.stack([transform(image) for image in BATCH]))
            extra = {labels: ORDER} if labels else {}
            timm.models.save_for_hf(model, folder, model_config=extra, safe_serialization=True)
            if change:
                change(folder)

            def look(own: list[PIL.Image.Image]) -> torch.Tensor:
                size = data["input_size"][-1]
                whole = torch.stack([torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255 for image in own])
                scaled = F.interpolate(whole, (size, size), mode="bilinear", antialias=True, align_corners=False)
                mean, std = (torch.tensor(data[key]).view(-1, 1, 1) for key in ("mean", "std"))
                with torch.inference_mode():
                    return model((scaled - mean) / std).double().softmax(1)

            return look

        return make

    for name in (
        "test_resnet",
        "test_vit",
        "test_efficientnet",
        "test_convnext",
        "test_mambaout",
        "test_nfnet",
        "test_byobnet",
        "test_vit2",
    ):
        if timm.is_model(name):
            yield attack("timm", name, of_timm(name))
    yield attack("timm", "names of none", of_timm("test_resnet", None), refused)
    yield attack(
        "timm", "names called labels", of_timm("test_resnet", "labels"), lambda o: placed(o) if o.code == 0 else refused(o)
    )
    for prefix in ("module.", "model."):
        yield attack("timm", f"tensors called {prefix}", of_timm("test_resnet", change=renamed(prefix)))
    yield attack(
        "timm",
        "pickled",
        of_timm(
            "test_resnet",
            change=lambda f: (
                torch.save(load_file(f / "model.safetensors"), f / "pytorch_model.bin"),
                (f / "model.safetensors").unlink(),
            ),
        ),
        told("pickle"),
    )

    def torchvision(form: str) -> Callable[[Path], None]:
        def make(folder: Path) -> None:
            folder.mkdir()
            state = models.resnet18(num_classes=3).state_dict()
            if form == "safetensors":
                save_file(state, folder / "model.safetensors")
            else:
                content = {
                    "plain": state,
                    "checkpoint": {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in state.items()}},
                }[form]
                torch.save(content, folder / "resnet18.pth")

        return make

    for form in ("safetensors", "plain", "checkpoint"):
        yield attack("torchvision", f"{form}, the folder", torchvision(form), told("config.json"))
    for file in ("resnet18.pth", "none.pth"):
        yield attack("torchvision", f"the file {file}", torchvision("plain"), told("teacher"), f"model/{file}")


def attacks() -> Iterator[Attack]:
    """Yield what is tried."""
    yield from teachers()
