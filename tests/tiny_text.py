"""A Stable Diffusion of a few thousand random weights, as diffusers' own pipelines, and saved in their layout."""

import json
from pathlib import Path

import torch
from diffusers import (
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from helpers import make_vae
from torch import nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

LENGTH = 24  # tokens that the text encoders read
START, END = "<|startoftext|>", "<|endoftext|>"


def write_tokenizer(folder: Path, pad: str = END) -> Path:
    """Write the four files of a tokenizer of CLIP as repositories have them: letters, and two merges."""
    characters = [chr(code) for code in range(33, 127)]
    words = [*characters, *(f"{c}</w>" for c in characters), "ph", "cat</w>", "at</w>", START, END]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.json").write_text(json.dumps({word: place for place, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\np h\na t</w>\nc at</w>\n")
    special = {"bos_token": START, "eos_token": END, "unk_token": END, "pad_token": pad}
    (folder / "special_tokens_map.json").write_text(json.dumps(special))
    config = {"model_max_length": LENGTH, "tokenizer_class": "CLIPTokenizer", "do_lower_case": True, **special}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder


def _encoder(kind: type, tokenizer: CLIPTokenizer, width: int) -> nn.Module:
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 1}
    config = CLIPTextConfig(
        vocab_size=len(tokenizer), hidden_size=width, intermediate_size=2 * width, num_hidden_layers=3, projection_dim=12,
        num_attention_heads=2, max_position_embeddings=LENGTH, **ids,
    )  # fmt: skip
    return kind(config)


def make_text_pipeline(folder: Path, *, xl: bool = False) -> StableDiffusionPipeline | StableDiffusionXLPipeline:
    """Build one of 4x8x8 latents and images of 16 px; its tokenizers are written to a folder."""
    torch.manual_seed(0)
    tokenizer = CLIPTokenizer.from_pretrained(write_tokenizer(folder / "tokenizer"))
    vae = make_vae()
    extra = {"addition_embed_type": "text_time", "addition_time_embed_dim": 8, "projection_class_embeddings_input_dim": 60}
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(16, 32),
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
        layers_per_block=1,
        attention_head_dim=4,
        norm_num_groups=8,
        cross_attention_dim=40 if xl else 16,
        **(extra if xl else {}),
    )
    first = _encoder(CLIPTextModel, tokenizer, 16)
    for parameter in [*unet.parameters(), *first.parameters()]:
        parameter.data += 0.03 * torch.randn_like(parameter)  # or prompts would make no difference to speak of
    # As Stable Diffusion 1.5 has it.
    scheduler = PNDMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", skip_prk_steps=True, steps_offset=1
    )
    parts = {"vae": vae, "unet": unet, "scheduler": scheduler, "text_encoder": first, "tokenizer": tokenizer}
    if not xl:
        none = {"safety_checker": None, "feature_extractor": None, "requires_safety_checker": False}
        return StableDiffusionPipeline(**parts, **none)
    other = CLIPTokenizer.from_pretrained(write_tokenizer(folder / "tokenizer_2", pad="!"))
    second = _encoder(CLIPTextModelWithProjection, other, 24)
    return StableDiffusionXLPipeline(**parts, text_encoder_2=second, tokenizer_2=other, add_watermarker=False)


def save_text_pipeline(folder: Path, *, xl: bool = False) -> Path:
    """Save one as repositories of Stable Diffusion have it."""
    make_text_pipeline(folder, xl=xl).save_pretrained(folder)
    index = json.loads((folder / "model_index.json").read_text())
    if not xl:  # which a real one names
        index["safety_checker"] = ["stable_diffusion", "StableDiffusionSafetyChecker"]
    (folder / "model_index.json").write_text(json.dumps(index))
    for number in ("", "_2")[: 1 + xl]:
        (folder / f"tokenizer{number}" / "tokenizer.json").unlink()  # what older versions of transformers did not write
        write_tokenizer(folder / f"tokenizer{number}", "!" if number else END)
    return folder
