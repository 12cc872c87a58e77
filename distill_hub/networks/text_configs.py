"""What the folder of a text-to-image pipeline says of it; see `configs`."""

from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field, model_validator

from distill_hub.networks.configs import Config, Count, Width


def _pair(content: Any) -> Any:
    """JSON has lists where a pair is meant."""
    return tuple(content) if isinstance(content, list) else content


Pair = BeforeValidator(_pair)
Tokenizer = Annotated[tuple[Literal["transformers"], Literal["CLIPTokenizer", "CLIPTokenizerFast"]], Pair]


class TextIndex(Config):
    """The model_index.json of a Stable Diffusion pipeline: nothing but the classes that are known here is built."""

    class_name: Literal["StableDiffusionPipeline", "StableDiffusionXLPipeline"] = Field(alias="_class_name")
    unet: Annotated[tuple[Literal["diffusers"], Literal["UNet2DConditionModel"]], Pair]
    vae: Annotated[tuple[Literal["diffusers"], Literal["AutoencoderKL"]], Pair]
    text_encoder: Annotated[tuple[Literal["transformers"], Literal["CLIPTextModel"]], Pair]
    tokenizer: Tokenizer
    text_encoder_2: Annotated[tuple[Literal["transformers"], Literal["CLIPTextModelWithProjection"]], Pair] | None = None
    tokenizer_2: Tokenizer | None = None
    force_zeros_for_empty_prompt: bool = True  # read of the XL pipeline alone

    @model_validator(mode="after")
    def _has_its_encoders(self):
        if self.is_xl and None in (self.text_encoder_2, self.tokenizer_2):
            raise ValueError("a StableDiffusionXLPipeline needs text_encoder_2 and tokenizer_2")
        return self

    @property
    def is_xl(self) -> bool:
        """Whether it is Stable Diffusion XL."""
        return self.class_name == "StableDiffusionXLPipeline"


Layers = Annotated[int, Field(gt=0, le=256)]
PerBlock = Annotated[list[Layers], Field(min_length=1, max_length=8)]


class UnetConfig(Config):
    """The config.json of a UNet that is conditioned on text. The defaults are diffusers' own."""

    sample_size: Annotated[int, Field(gt=0, le=256)]  # side of the latents
    in_channels: Annotated[int, Field(gt=0, le=256)] = 4
    out_channels: Annotated[int, Field(gt=0, le=256)] = 4
    block_out_channels: Annotated[list[Width], Field(min_length=1, max_length=8)]
    layers_per_block: Layers | PerBlock = 2
    transformer_layers_per_block: Layers | PerBlock = 1
    attention_head_dim: Layers | PerBlock = 8
    norm_num_groups: Width = 32
    cross_attention_dim: Width = 1280
    addition_embed_type: Literal["text_time"] | None = None
    addition_time_embed_dim: Width | None = None
    projection_class_embeddings_input_dim: Width | None = None
    # Conditions of other pipelines, which nothing here would give them.
    class_embed_type: None = None
    num_class_embeds: None = None
    encoder_hid_dim_type: None = None
    time_cond_proj_dim: None = None
    quantization_config: None = None


class TextEncoderConfig(Config):
    """The config.json of a text encoder of CLIP. The defaults are transformers' own."""

    model_type: Literal["clip_text_model"]
    vocab_size: Count = 49408
    hidden_size: Width = 512
    intermediate_size: Annotated[int, Field(gt=0, le=65_536)] = 2048
    num_hidden_layers: Layers = 12
    num_attention_heads: Layers = 8
    max_position_embeddings: Annotated[int, Field(ge=3, le=4096)] = 77
    projection_dim: Width = 512
    use_attention_mask: Literal[False] = False
    quantization_config: None = None
