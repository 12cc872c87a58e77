"""The files of a Stable Diffusion pipeline: fetched, checked, and built from what is known, whatever else they name.

Its safety checker is neither fetched nor run: it would replace images by black ones, which a set of images must not hold
unseen.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from distill_hub.config import InputError, refusing
from distill_hub.generators.base import Decoder
from distill_hub.generators.pipeline import MODEL_FILES, find_folder, load_model, load_vae
from distill_hub.networks.configs import Config, NoiseConfig, VaeConfig
from distill_hub.networks.folders import building, check_extent, check_weights, checked, read_json
from distill_hub.networks.text_configs import TextEncoderConfig, TextIndex, UnetConfig

NEEDED = "a Stable Diffusion pipeline with safetensors weights in unet/, vae/ and text_encoder/ is needed"
_STEM = "model"  # transformers' name of weights
_ENCODER = ["config.json", f"{_STEM}.safetensors", f"{_STEM}-*.safetensors", f"{_STEM}.safetensors.index.json"]
_WORDS = ("vocab.json", "merges.txt")
_TOKENIZER = [*_WORDS, "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"]
_FILES = [
    *("model_index.json", "scheduler/scheduler_config.json", "README.md"),
    *(f"{part}/{file}" for part in ("unet", "vae") for file in MODEL_FILES),
    *(f"text_encoder{number}/{file}" for number in ("", "_2") for file in _ENCODER),
    *(f"tokenizer{number}/{file}" for number in ("", "_2") for file in _TOKENIZER),
]


@dataclass(frozen=True)
class TextParts:
    """A pipeline and what its folder says of it."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    encoders: tuple[CLIPTextModel | CLIPTextModelWithProjection, ...]  # one, or two of an XL pipeline
    tokenizers: tuple[CLIPTokenizer, ...]  # as many
    schedule: dict[str, Any]  # of the noise
    zero_null: bool  # whether an empty negative prompt is embedded as zeros
    folder: Path | None = None
    commit: str | None = None  # on the Hub
    decoder: Decoder | None = None  # in place of the pipeline's own

    @property
    def is_xl(self) -> bool:
        """Whether it is Stable Diffusion XL."""
        return len(self.encoders) == 2


def load_text_pipeline(
    name: str, revision: str | None, dtype: torch.dtype, *, vae: str | None = None, vae_revision: str | None = None
) -> TextParts:
    """Load a Hub repository or folder of Stable Diffusion as diffusers has it; no code and no pickle of it is opened.

    Args:
        name: Hub id or folder.
        revision: Branch, tag or commit on the Hub.
        dtype: Precision of UNet and text encoders. The VAE stays in float32.
        vae: Hub id or folder of another VAE, for the decoding; None: the pipeline's own.
        vae_revision: Branch, tag or commit of that on the Hub.

    Raises:
        InputError: When a file is missing, truncated, or does not fit its config, when the configs do not fit together, and
            for a network that predicts something else than the noise.
    """
    folder, commit = find_folder(name, revision, "generator", NEEDED, _FILES)

    def said(file: str, kind: type[Config]) -> Any:
        return checked(kind, read_json(folder / file, "generator", name), file, "generator", name)

    index = said("model_index.json", TextIndex)
    numbers = ("", "_2") if index.is_xl else ("",)
    shape, pixels = said("unet/config.json", UnetConfig), said("vae/config.json", VaeConfig)
    encoders = [said(f"text_encoder{number}/config.json", TextEncoderConfig) for number in numbers]
    noise = said("scheduler/scheduler_config.json", NoiseConfig)
    _check_fit(name, index, shape, pixels, encoders)
    tokenizers = tuple(
        _load_tokenizer(folder / f"tokenizer{number}", config, name)
        for number, config in zip(numbers, encoders, strict=True)
    )
    decoder = load_vae(vae, vae_revision, pixels) if vae else None
    return TextParts(
        load_model(UNet2DConditionModel, folder / "unet", dtype, "generator", name, NEEDED),
        load_model(AutoencoderKL, folder / "vae", torch.float32, "generator", name, NEEDED),
        tuple(_load_encoder(folder / f"text_encoder{number}", dtype, name) for number in numbers),
        tokenizers,
        noise.model_dump(),
        index.is_xl and index.force_zeros_for_empty_prompt,
        folder,
        commit,
        decoder,
    )


def _check_fit(name: str, index: TextIndex, unet: UnetConfig, vae: VaeConfig, encoders: list[TextEncoderConfig]) -> None:
    """Refuse configurations that do not fit together."""
    width = sum(encoder.hidden_size for encoder in encoders)
    fits = [
        ("unet/config.json, in_channels", unet.in_channels, "vae/config.json, latent_channels", vae.latent_channels),
        ("unet/config.json, out_channels", unet.out_channels, "in_channels", unet.in_channels),
        ("unet/config.json, cross_attention_dim", unet.cross_attention_dim, "hidden_size of its text encoders", width),
        ("unet/config.json, addition_embed_type", unet.addition_embed_type, "what such a pipeline has",
         "text_time" if index.is_xl else None),
    ]  # fmt: skip
    if index.is_xl:  # the pooled embedding, and six numbers of size and crop
        extra = encoders[-1].projection_dim + 6 * (unet.addition_time_embed_dim or 0)
        have, lengths = unet.projection_class_embeddings_input_dim, [e.max_position_embeddings for e in encoders]
        fits += [
            ("unet/config.json, projection_class_embeddings_input_dim", have, "what its conditions have", extra),
            ("text_encoder/config.json, max_position_embeddings", lengths[0], "that of text_encoder_2", lengths[1]),
        ]
    for here, one, there, other in fits:
        if one != other:
            raise InputError("generator", name, f"{here} is {one}, {there} {other}; they must be equal")


def _load_tokenizer(folder: Path, encoder: TextEncoderConfig, name: str) -> CLIPTokenizer:
    # Without them, transformers builds one that knows no word. As it saves them today, they are in one file.
    missing = [] if (folder / "tokenizer.json").is_file() else [file for file in _WORDS if not (folder / file).is_file()]
    if missing:
        raise InputError("generator", name, f"there is no {folder.name}/{missing[0]} in it")
    valid = f"{folder.name}/ must hold a CLIPTokenizer"
    # For words and merges that do not fit, the tokenizers library raises nothing narrower than Exception.
    with building("generator", name, valid), refusing((Exception,), "generator", name, valid):
        tokenizer = CLIPTokenizer.from_pretrained(folder, local_files_only=True)
        largest = max(tokenizer.get_vocab().values())
    if largest >= encoder.vocab_size:
        valid = f"{folder.name}/ has a token {largest}; the text encoder beside it knows those below {encoder.vocab_size}"
        raise InputError("generator", name, valid)
    return tokenizer


def _load_encoder(folder: Path, dtype: torch.dtype, name: str) -> CLIPTextModel | CLIPTextModelWithProjection:
    kind = CLIPTextModelWithProjection if folder.name.endswith("_2") else CLIPTextModel
    check_weights(folder, _STEM, "generator", name)
    with building("generator", name, NEEDED), torch.device("meta"):
        check_extent(kind(kind.config_class.from_pretrained(folder)), folder)
    return load_model(kind, folder, dtype, "generator", name, NEEDED, stem=_STEM)
