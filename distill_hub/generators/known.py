"""Generators that are known by name, and what can be refused before one is loaded."""

from distill_hub.hub import check_model

IMAGENET_DIT = "facebook/DiT-XL-2-256"
# The repository's main branch holds pickled weights only, which are not loaded here; this ref holds them as safetensors.
IMAGENET_DIT_REVISION = "refs/pr/1"
TUNING = "tuning.json"  # in the folder of a generator that was fine-tuned: how that was done
DIT_LICENSE = "cc-by-nc-4.0"  # of `IMAGENET_DIT`
NEEDED = "a DiTPipeline with safetensors weights in transformer/ and vae/ is needed"


def check_generator(name: str) -> None:
    """Refuse what cannot be a generator: neither auto, nor the folder of a pipeline, nor a Hub id.

    Raises:
        InputError: Saying what is valid.
    """
    if name != "auto":
        check_model("generator", name, "model_index.json", NEEDED)
