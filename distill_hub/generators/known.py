"""Generators that are known by name, and where one says how it was tuned."""

IMAGENET_DIT = "facebook/DiT-XL-2-256"
# The repository's main branch holds pickled weights only, which are not loaded here; this ref holds them as safetensors.
IMAGENET_DIT_REVISION = "refs/pr/1"
TUNING = "tuning.json"  # in the folder of a generator that was fine-tuned: how that was done
DIT_LICENSE = "cc-by-nc-4.0"  # of `IMAGENET_DIT`
