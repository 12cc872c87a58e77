"""Published networks that training goes on from: their weights, with a new head for other classes."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from distill_hub.artifact.describe import weights_sha256
from distill_hub.artifact.manifest import ModelRecord
from distill_hub.artifact.names import public_name
from distill_hub.classifiers import find_head, read_network
from distill_hub.config import InputError
from distill_hub.networks.build import build
from distill_hub.networks.folders import building
from distill_hub.networks.names import is_built


@dataclass(frozen=True)
class Pretrained:
    """A trained network, as it was published."""

    name: str  # as the user called it
    network: str  # for `networks.build`
    image_size: int  # side of the images that it was trained on
    normalization: tuple[Sequence[float], Sequence[float]]  # mean and standard deviation that it expects
    record: ModelRecord  # where it is from
    model: nn.Module = field(repr=False)
    classes: int = 0  # that it knows; 0: it has no last layer

    def with_new_head(self, num_classes: int, image_size: int) -> nn.Module:
        """Return the network for other classes, in float32 on the CPU; the last layer is drawn by torch's generator.

        Args:
            num_classes: Number of classes.
            image_size: Side of the images, in pixels.

        Raises:
            InputError: When it does not run at this image size, or is not what is built by its name.
        """
        fresh = build(self.network, num_classes, image_size, field="pretrained")
        head = find_head(fresh, num_classes, self.name, field="pretrained")
        place = next(name for name, module in fresh.named_modules() if module is head)
        valid = f"weights that fit {self.network} at {image_size} px are needed"
        with building("pretrained", self.name, valid), torch.no_grad():
            if image_size != self.image_size and hasattr(self.model, "set_input_size"):
                self.model.set_input_size(img_size=image_size)  # timm's way with embeddings of places
            kept = {name: value for name, value in self.model.state_dict().items() if not name.startswith(f"{place}.")}
            drawn = {f"{place}.{name}": value for name, value in head.state_dict().items()}
            fresh.load_state_dict({**kept, **drawn})
            if not is_built(self.network):  # whose layers its file may have altered
                image = torch.rand(1, 3, image_size, image_size)
                ours, theirs = _seen(fresh, num_classes, image), _seen(self.model, self.classes, image)
                if not torch.allclose(ours, theirs, rtol=1e-3, atol=1e-4):
                    raise ValueError("model_args in its config.json make another network of it")
        return fresh


def open_pretrained(name: str, revision: str | None = None) -> Pretrained:
    """Load a network to go on from.

    Args:
        name: 'timm/NAME', the Hub id of a classifier in timm's layout or ours, or a folder in one of them.
        revision: Branch, tag or commit on the Hub.

    Raises:
        InputError: When it cannot be loaded, is a network of transformers, or sees grey images.
    """
    try:
        found = read_network(name, revision, named=False)
    except InputError as error:  # which takes every classifier for a teacher
        raise InputError("pretrained", error.value, error.valid) from error
    model, architecture = found["model"], found["architecture"]
    if not is_built(architecture) and not hasattr(model, "pretrained_cfg"):
        valid = (
            f"a network of timm's or ours is needed; this is a {architecture} of transformers, which is read, not trained"
        )
        raise InputError("pretrained", name, valid)
    if found.get("grey"):
        raise InputError("pretrained", name, "a network that sees red, green and blue is needed; this one sees grey alone")
    place = getattr(model, "pretrained_cfg", {}).get("hf_hub_id") if name.startswith("timm/") else None
    record = ModelRecord(
        id=place.split("@")[0] if place else public_name(name),
        architecture=architecture,
        revision=found["revision"],
        sha256=weights_sha256(model),
        license=found["license"],
    )
    network = architecture if is_built(architecture) else f"timm/{architecture}"
    normalization = found["mean"], found["std"]
    return Pretrained(name, network, found["image_size"], normalization, record, model, len(found["class_names"]))


def _seen(model: nn.Module, num_classes: int, image: torch.Tensor) -> torch.Tensor:
    """Return what the head of a network is shown of an image; of one without a head, what it makes of it."""
    if not num_classes:
        return model.eval()(image)
    seen: list[torch.Tensor] = []
    hook = find_head(model, num_classes, "", field="pretrained").register_forward_pre_hook(lambda _, x: seen.append(x[0]))
    model.eval()(image)
    hook.remove()
    return seen[-1]
