"""Teachers and selectors by name: timm, transformers, and the networks that are trained here.

A classifier folder holds `config.json` and `model.safetensors`, in timm's layout; transformers' own layout is read, too.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import PIL.Image
import torch
import torch.nn.functional as F
from huggingface_hub import snapshot_download
from safetensors.torch import load_file, save
from torch import nn

from distill_hub.augmentation.augment import LUMA, normalize
from distill_hub.config import InputError, nearest
from distill_hub.data.classes import SourceClass, match_classes
from distill_hub.data.known import NORMALIZATIONS
from distill_hub.disk.files import atomic_write
from distill_hub.networks.build import build
from distill_hub.networks.configs import OwnConfig, ProcessorConfig, TransformersConfig
from distill_hub.networks.folders import building, check_extent, check_loaded, check_weights, checked, read_json
from distill_hub.networks.names import TEACHER, is_built
from distill_hub.networks.processors import inputs_of

IMAGENET_MEAN, IMAGENET_STD = NORMALIZATIONS["imagenet"]
_OF_THE_NETWORK = ("fixed_input_size", "first_conv", "classifier")
IMAGENET_TEACHER = "timm/resnet18.tv_in1k"  # torchvision's IMAGENET1K_V1 weights, the selector of CaO2
# Of methods with several: the networks of G-VBSM and EDC that timm has, where only the first has torchvision's weights.
IMAGENET_TEACHERS = (IMAGENET_TEACHER, "timm/mobilenetv2_100.ra_in1k", "timm/efficientnet_b0.ra_in1k")
# All that is fetched of a classifier's repository.
_FILES = [
    "config.json",
    "preprocessor_config.json",
    "model.safetensors",
    "model-*.safetensors",
    "model.safetensors.index.json",
]
_PROCESSORS = ("preprocessor_config.json", "processor_config.json")
_KNOWN_FLAGS = ("do_resize", "do_center_crop", "do_rescale", "do_normalize", "do_convert_rgb")


def find_head(model: nn.Module, num_classes: int, name: str, *, field: str = "teacher") -> nn.Linear:
    """Return the last linear layer with one output per class: its input is the embedding, whatever the architecture.

    Raises:
        InputError: When the network has none; it blames the option `field`.
    """
    heads = [m for m in model.modules() if isinstance(m, nn.Linear) and m.out_features == num_classes]
    if not heads:
        raise InputError(field, name, f"a network that ends in a linear layer with {num_classes} outputs is needed")
    return heads[-1]


def classified_at_a_time(size: int) -> int:
    """Return how many images are classified at a time where no number depends on it: fewer of large ones.

    Args:
        size: Their side in pixels. 256 images of 224 px took a network of one layer 2.8 GB, 64 of them 1.1 GB.
    """
    return min(256, max(1, 2**22 // size**2))


def unit_batches(images: torch.Tensor, batch_size: int, device: torch.device) -> Iterator[torch.Tensor]:
    """Yield uint8 images (N, 3, H, W) a batch at a time, on a device and as floats in [0, 1]."""
    return (batch.to(device).float() / 255 for batch in images.split(batch_size))


def prepare(
    images: torch.Tensor,
    *,
    image_size: int,
    resize: int,
    interpolation: str,
    mean: Sequence[float],
    std: Sequence[float],
    grey: bool,
) -> torch.Tensor:
    """Make of images (B, 3, S, S) in [0, 1] a network's input (B, 3 or 1, image_size, image_size); see `Classifier`."""
    if images.shape[-1] != resize:
        images = F.interpolate(images, (resize, resize), mode=interpolation, antialias=True, align_corners=False)
        if interpolation == "bicubic":
            images = images.clamp(0, 1)  # as images of whole grey values are
    if resize != image_size:
        first = (resize - image_size) // 2
        images = images[..., first : first + image_size, first : first + image_size]
    images = normalize(images, mean, std)
    return (images * images.new_tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True) if grey else images


class Classifier:
    """A trained, frozen classifier for the classes of one source. Resizing and normalisation happen inside.

    Args:
        model: Network from normalised images to logits.
        id: What the manifest calls it.
        architecture: Name of the network.
        classes: The source's classes; logits come in their order.
        class_names: The network's own classes, in its order. Classes are matched by name or wnid. A network that knows more
            classes than the source is restricted to the source's: logits are cut out first, the softmax runs over those.
            Only `outputs` are of all.
        image_size: Side of the network's input.
        mean: Of the normalisation, per channel; one number for all of them will do.
        std: Of the normalisation, likewise.
        resize: Side to which images are scaled before their centre is cropped; default: `image_size`, without a crop.
        interpolation: How images are scaled: 'bilinear' or 'bicubic', both with antialiasing.
        grey: Whether the network has one input channel; it sees the luma (ITU-R BT.601), as in Pillow's mode L.
        device: Where to run.
        revision: Commit on the Hub.
        license: Licence of the weights.
    """

    def __init__(
        self,
        model: nn.Module,
        *,
        id: str,
        architecture: str,
        classes: Sequence[SourceClass],
        class_names: Sequence[str],
        image_size: int,
        mean: Sequence[float] = IMAGENET_MEAN,
        std: Sequence[float] = IMAGENET_STD,
        resize: int | None = None,
        interpolation: str = "bilinear",
        grey: bool = False,
        device: torch.device | str = "cpu",
        revision: str | None = None,
        license: str | None = None,
    ):
        self.columns = match_classes(classes, class_names, "teacher", id)
        self.known = len(class_names)  # K
        self.model = model.to(device).eval().requires_grad_(False)
        self.id, self.architecture, self.revision, self.license = id, architecture, revision, license
        self.image_size, self.device = image_size, torch.device(device)
        self.resize, self.interpolation, self.grey = resize or image_size, interpolation, grey
        self.mean, self.std = (list(numbers) * (3 // len(numbers)) for numbers in (mean, std))
        seen: dict[str, torch.Tensor] = {}  # a copy with a network of its own sees the same
        find_head(model, len(class_names), id).register_forward_pre_hook(lambda _, inputs: seen.update(embedding=inputs[0]))
        self._seen = seen

    def outputs(self, images: torch.Tensor, *, as_is: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Map images (B, 3, H, W) in [0, 1] to logits (B, K) of all it knows and embeddings (B, D), in one pass.

        Args:
            images: The images.
            as_is: Show them to the network at their own size, which it has to run on.

        Returns:
            The logits in the network's own order, those of the source's classes in `columns`; and the embeddings.
        """
        size, resize = (images.shape[-1],) * 2 if as_is else (self.image_size, self.resize)
        how = {"image_size": size, "resize": resize, "interpolation": self.interpolation}
        output = self.model(prepare(images, **how, mean=self.mean, std=self.std, grey=self.grey))
        logits = output if isinstance(output, torch.Tensor) else output.logits  # transformers wraps them
        return logits, self._seen["embedding"].flatten(1)

    def __call__(self, images: torch.Tensor, *, as_is: bool = False) -> tuple[torch.Tensor, torch.Tensor]:
        """Map images (B, 3, H, W) in [0, 1] to logits (B, C) of the source's classes and embeddings; see `outputs`."""
        logits, embeddings = self.outputs(images, as_is=as_is)
        return logits[:, self.columns], embeddings

    def logits(self, images: torch.Tensor, *, as_is: bool = False) -> torch.Tensor:
        """Map images (B, 3, H, W) in [0, 1] to logits (B, C) of the source's classes; see `outputs`."""
        return self(images, as_is=as_is)[0]

    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Map images (B, 3, H, W) in [0, 1] to the features (B, D) the last layer sees."""
        return self(images)[1]

    @torch.inference_mode()
    def judge(self, images: torch.Tensor, batch_size: int = 256) -> torch.Tensor:
        """Return the logits, float32 (N, C) on the CPU, of uint8 images (N, 3, S, S)."""
        return torch.cat([self.logits(batch).float().cpu() for batch in unit_batches(images, batch_size, self.device)])

    @torch.inference_mode()
    def predict(self, images: torch.Tensor, batch_size: int | None = None) -> torch.Tensor:
        """Return the class, in the source's order, of each of the uint8 images (N, 3, S, S), as int64 (N,) on the CPU."""
        batches = unit_batches(images, batch_size or classified_at_a_time(images.shape[-1]), self.device)
        return torch.cat([self.logits(batch).argmax(1).cpu() for batch in batches])

    @torch.inference_mode()
    def soft_labels(self, images: torch.Tensor, batch_size: int = 256) -> torch.Tensor:
        """Return the probabilities at temperature 1, float32 (N, C) on the CPU, of uint8 images (N, 3, S, S)."""
        batches = unit_batches(images, batch_size, self.device)
        return torch.cat([self.logits(batch).double().softmax(1).float().cpu() for batch in batches])

    @torch.inference_mode()
    def embeddings(self, images: torch.Tensor, batch_size: int = 256) -> torch.Tensor:
        """Return the features that the last layer sees, float32 (N, D) on the CPU, of uint8 images (N, 3, S, S)."""
        return torch.cat([self.embed(batch).cpu() for batch in unit_batches(images, batch_size, self.device)])


def save_network(
    model: nn.Module,
    folder: Path,
    name: str,
    class_names: Sequence[str],
    image_size: int,
    *,
    mean: Sequence[float] = IMAGENET_MEAN,
    std: Sequence[float] = IMAGENET_STD,
    resize: int | None = None,
    license: str | None = None,
    record: Mapping[str, Any] | None = None,
) -> None:
    """Save a trained network as `model.safetensors` and then `config.json`, in timm's layout.

    Args:
        model: The network; one of timm's is also what `timm.create_model("local-dir:FOLDER", pretrained=True)` returns.
        folder: Where to.
        name: See `networks.build`.
        class_names: Class of each logit.
        image_size: Side of its input, in pixels.
        mean: Of the normalisation, per channel.
        std: Of the normalisation, per channel.
        resize: Side that images were scaled to before their centre was cropped, where that is another: for timm, and people.
        license: Licence of the weights.
        record: How it was trained: `distill_hub` in the configuration, see `artifact.classifier`.
    """
    # What timm needs to build its own network anew: whether its size is fixed, and which layers depend on the input's
    # channels and on the classes.
    own = {key: value for key, value in getattr(model, "pretrained_cfg", {}).items() if key in _OF_THE_NETWORK}
    data = {
        "input_size": [3, image_size, image_size],
        "mean": mean,
        "std": std,
        "interpolation": "bilinear",
        "crop_pct": image_size / (resize or image_size),
        **({"license": license} if license else {}),
    }
    config = {
        "architecture": name.removeprefix("timm/"),
        "num_classes": len(class_names),
        "label_names": list(class_names),
        "pretrained_cfg": {**own, **data},
        **({"distill_hub": record} if record else {}),
    }
    atomic_write(folder / "model.safetensors", save({k: v.contiguous() for k, v in model.state_dict().items()}))
    atomic_write(folder / "config.json", json.dumps(config, indent=2).encode())


def load_classifier(
    name: str,
    classes: Sequence[SourceClass],
    *,
    revision: str | None = None,
    resize: int | None = None,
    device: torch.device | str = "cpu",
) -> Classifier:
    """Load a trained classifier.

    Args:
        name: 'timm/NAME' (a timm model with pretrained weights, e.g. timm/resnet18.tv_in1k), the Hub id of a classifier in
            timm's or transformers' layout, or a folder in one of them.
        classes: The source's classes, matched by name or wnid with the network's own.
        revision: Branch, tag or commit on the Hub.
        resize: Side to which images are scaled before their centre is cropped; default: as the network's files say, of
            timm's and our own without a crop.
        device: Where to run.

    Raises:
        InputError: When it cannot be loaded, its weights are not those that its configuration describes, or it does not know
            a class.
    """
    network = read_network(name, revision)
    classifier = Classifier(**network, id=name, classes=classes, device=device)
    size, runs = classifier.image_size, f"a network that runs on {classifier.image_size} px images is needed"
    with building("teacher", name, runs), torch.inference_mode():
        classifier(torch.zeros(1, 3, size, size, device=device))
    classifier.resize = resize or classifier.resize  # after the trial, which is of the network
    return classifier


def read_network(name: str, revision: str | None = None, *, named: bool = True) -> dict[str, Any]:
    """Return what `Classifier` needs of a network but its classes: model, class_names, image_size, revision, ...

    Args:
        name: See `load_classifier`, as the next one.
        revision: Branch, tag or commit on the Hub; what is returned is the commit.
        named: Refuse one whose class names are not known. Else they are numbers, of one without a last layer none.

    Raises:
        InputError: See `load_classifier`.
    """
    network = None
    if name.startswith("timm/"):
        from distill_hub.networks.of_timm import pretrained

        network = pretrained(name, revision)
    if network is None:
        folder, commit = _folder(name, revision)
        content = read_json(folder / "config.json", "teacher", name)
        if is_built(str(content.get("architecture"))):
            network = _own(name, folder, content)
        elif "architecture" in content:
            from distill_hub.networks.of_timm import from_folder

            network = from_folder(name, folder, content)
        else:
            network = _transformers(name, folder, content)
        network["revision"] = commit
    if network["class_names"] is None:
        if named:
            raise InputError(
                "teacher", name, "its class names are not known; a folder or repository with label_names is needed"
            )
        network["class_names"] = [str(place) for place in range(network["model"].num_classes)]
    return network


def _folder(name: str, revision: str | None) -> tuple[Path, str | None]:
    """Return where the files of a classifier lie, those of one on the Hub in its cache, and the commit there."""
    if Path(name).is_dir():
        return Path(name), None
    known: list[str] = []
    if name.startswith("timm/"):
        from distill_hub.networks.of_timm import names

        known = names()
    with building("teacher", name, f"{TEACHER}{nearest(name, known)}"):
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=_FILES))
    return folder, folder.name  # .../snapshots/<commit>


def _own(name: str, folder: Path, content: dict) -> dict[str, Any]:
    """Return what `Classifier` needs of a network that was saved here."""
    config = checked(OwnConfig, content, "config.json", "teacher", name)
    check_weights(folder, "model", "teacher", name)
    data = config.pretrained_cfg
    with building("teacher", name, TEACHER):
        with torch.device("meta"):  # whatever its configuration says, it takes the memory of its file
            model = build(config.architecture, config.num_classes, data.input_size[-1], field="teacher")
        weights = load_file(folder / "model.safetensors")
        model.load_state_dict(weights, assign=True)
    check_loaded(model, "teacher", name)
    names, size = config.label_names, data.input_size[-1]
    return {"model": model, "architecture": config.architecture, "class_names": names, "image_size": size, "mean": data.mean,
            "std": data.std, "license": data.license}  # fmt: skip


def _transformers(name: str, folder: Path, content: dict) -> dict[str, Any]:
    """Return what `Classifier` needs of a network of transformers, whose processor says what images it is given."""
    config = checked(TransformersConfig, content, "config.json", "teacher", name)
    check_weights(folder, "model", "teacher", name)
    if not any((folder / file).is_file() for file in _PROCESSORS):
        raise InputError("teacher", name, f"there is no {_PROCESSORS[0]} in it, which says what images the network is given")
    from transformers import AutoConfig, AutoImageProcessor, AutoModelForImageClassification

    with building("teacher", name, TEACHER):
        processor = AutoImageProcessor.from_pretrained(folder, trust_remote_code=False)
        said = json.loads(processor.to_json_string())
    does = checked(ProcessorConfig, said, "preprocessor_config.json", "teacher", name)
    inputs = inputs_of(name, does, content.get("image_size"))
    with building("teacher", name, TEACHER):
        described = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        with torch.device("meta"):
            check_extent(AutoModelForImageClassification.from_config(described, trust_remote_code=False), folder)
        # Weights stored in half precision would refuse our images. Those of another shape are named below.
        model, found = AutoModelForImageClassification.from_pretrained(
            folder, trust_remote_code=False, use_safetensors=True, dtype=torch.float32, output_loading_info=True,
            ignore_mismatched_sizes=True,
        )  # fmt: skip
        names = [model.config.id2label[place] for place in range(model.config.num_labels)]
    check_loaded(model, "teacher", name, found["missing_keys"], found["unexpected_keys"], found["mismatched_keys"])
    inputs["grey"] = config.num_channels == 1
    _compare(name, processor, said, inputs)
    return {"model": model, "architecture": config.model_type, "class_names": names, **inputs}


def _compare(name: str, processor: Any, said: Mapping[str, Any], inputs: Mapping[str, Any]) -> None:
    """Refuse a processor that makes something else of an image than a `Classifier` with these inputs does."""
    side = inputs["image_size"] + 5 * bool(said.get("do_resize"))
    # Greys from the middle, which no interpolation takes beyond black and white.
    pixels = torch.randint(96, 160, (3, side, side), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    image = PIL.Image.fromarray(pixels.permute(1, 2, 0).numpy())
    with building("teacher", name, TEACHER):
        theirs = processor(image.convert("L") if inputs["grey"] else image, return_tensors="pt")["pixel_values"].float()
    ours = prepare(pixels[None] / 255, **inputs)
    steps = 2 / 255 / torch.tensor(inputs["std"]).view(1, -1, 1, 1)  # processors round to whole grey values
    if theirs.shape != ours.shape or not ((ours - theirs).abs() <= steps + 1e-4 * theirs.abs()).all():
        flags = sorted(key for key, value in said.items() if key.startswith("do_") and value and key not in _KNOWN_FLAGS)
        what = f"{said['image_processor_type']}{' with ' + ', '.join(flags) if flags else ''}"
        raise InputError("teacher", name, f"preprocessor_config.json: what {what} does to images is not known here")
