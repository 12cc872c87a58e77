"""What a processor of transformers does to images, in the words of a `Classifier`."""

from typing import Any, NoReturn

from distill_hub.config import InputError
from distill_hub.networks.configs import ProcessorConfig

_RESAMPLE = {2: "bilinear", 3: "bicubic"}  # Pillow's numbers


def inputs_of(name: str, does: ProcessorConfig, network_side: Any) -> dict[str, Any]:
    """Return what a `Classifier` needs to know of the images that a processor makes.

    Args:
        name: What the user called the teacher.
        does: What the processor says of itself.
        network_side: The side of the network's images in pixels, where its configuration tells it.

    Returns:
        `image_size`, `resize`, `interpolation`, `mean` and `std`, each as `Classifier` takes it.

    Raises:
        InputError: Naming a flag that cannot be followed.
    """

    def refuse(flag: str, valid: str) -> NoReturn:
        raise InputError("teacher", name, f"preprocessor_config.json, {flag}: {valid}")

    size = resize = does.size.side if does.size else None
    if not does.do_resize:
        if does.do_center_crop or not isinstance(network_side, int) or not 0 < network_side <= 1024:
            refuse("do_resize false", "the side of the network's images is not known; set do_resize and size")
        size = resize = network_side
    elif size is None or does.resample not in _RESAMPLE:
        refuse("size or resample", "a square of at most 1024 px is needed, scaled bilinearly (2) or bicubically (3)")
    elif does.crop_pct and does.size.shortest_edge and size < 384:  # ConvNeXt's; above, the square is not cropped
        resize = int(size / does.crop_pct)
    if does.do_center_crop:
        size = does.crop_size.side if does.crop_size else None
        if size is None or size > resize:
            refuse("crop_size", f"a square within the {resize} px image is needed")
    # A pixel value v in [0, 1] becomes ((v * scale - offset - mean) / std), once more over std for some networks.
    scale = 255 * (does.rescale_factor if does.do_rescale else 1.0)
    means, stds = ([x] * 3 if isinstance(x, float) else x * (3 // len(x)) for x in (does.image_mean, does.image_std))
    mean, std = (means, stds) if does.do_normalize else ([0.0] * 3, [1.0] * 3)
    if does.rescale_offset and does.do_rescale:
        mean = [m + 1 for m in mean]
    if does.include_top:
        std = [s * again for s, again in zip(std, stds, strict=True)]
    return {
        "image_size": size,
        "resize": resize,
        "interpolation": _RESAMPLE.get(does.resample, "bilinear"),
        "mean": [m / scale for m in mean],
        "std": [s / scale for s in std],
    }
