"""What the folder of a network says of it: every configuration is one validated record before anything is built from it.

A stranger wrote these files. Fields that are not read here may hold anything.
"""

from typing import Annotated, Any, Literal, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator


class Config(BaseModel):
    """A frozen record of what is read of a configuration."""

    model_config = ConfigDict(extra="ignore", frozen=True, strict=True, allow_inf_nan=False)


Own = TypeVar("Own", bound=Config)


def _listed(names: Any) -> Any:
    """Return the names of {"0": name, "1": name, ...} as a list."""
    if not isinstance(names, dict):
        return names
    if names.keys() != {str(place) for place in range(len(names))}:
        raise ValueError("its keys must be 0, 1, 2, ...")
    return [names[str(place)] for place in range(len(names))]


def _mapped(names: Any) -> Any:
    """Refuse names that are a list already, which transformers itself does not read."""
    if isinstance(names, list):
        raise ValueError('it must be {"0": name, "1": name, ...}')
    return names


def _readable(name: str) -> str:
    """Refuse what moves a terminal's cursor or turns the direction of a line."""
    if not name.isprintable():
        raise ValueError("a name must be printable")
    return name


Side = Annotated[int, Field(gt=0, le=1024)]  # pixels
Count = Annotated[int, Field(gt=0, le=100_000)]
Name = Annotated[str, Field(max_length=500), AfterValidator(_readable)]
Names = Annotated[list[Name], BeforeValidator(_listed), Field(min_length=1, max_length=100_000)]
Mean = Annotated[float, Field(ge=-1e6, le=1e6)]
Std = Annotated[float, Field(ge=1e-6, le=1e6)]
Means, Stds = list[Mean], list[Std]


class TimmData(Config):
    """What a network of timm's layout is given: `pretrained_cfg` of its config.json."""

    input_size: Annotated[list[Side], Field(min_length=3, max_length=3)] | None = None  # channels, height, width
    mean: Means | None = None
    std: Stds | None = None
    num_classes: Count | None = None
    label_names: Names | None = None
    fixed_input_size: bool | None = None
    first_conv: str | list[str] | None = None
    classifier: str | list[str] | None = None
    license: str | None = None

    @model_validator(mode="after")
    def _of_one_shape(self):
        if self.input_size and (self.input_size[0] not in (1, 3) or self.input_size[1] != self.input_size[2]):
            raise ValueError(f"input_size {self.input_size} must be 1 or 3 channels and a square")
        channels = self.input_size[0] if self.input_size else 3
        for name, numbers in (("mean", self.mean), ("std", self.std)):
            if numbers is not None and len(numbers) != channels:
                raise ValueError(f"{name} must have as many numbers as input_size has channels, {channels}")
        return self


class TimmConfig(Config):
    """The config.json of a network in timm's layout."""

    architecture: str
    num_classes: Count | None = None
    label_names: Names | None = None
    pretrained_cfg: TimmData = TimmData()
    model_args: dict[str, bool | int | float | str | list[bool | int | float | str] | None] = {}

    @model_validator(mode="before")
    @classmethod
    def _nested(cls, content: Any) -> Any:
        """Older files of timm's have everything at the top."""
        if isinstance(content, dict) and "pretrained_cfg" not in content:
            data = {"label_names": content.get("labels"), **content}
            return {**content, "pretrained_cfg": {key: value for key, value in data.items() if value is not None}}
        return content

    @model_validator(mode="after")
    def _as_many_names_as_classes(self):
        if self.names and self.classes and len(self.names) != self.classes:
            raise ValueError(f"label_names has {len(self.names)} names for {self.classes} classes")
        return self

    @model_validator(mode="after")
    def _of_as_many_channels(self):
        channels = (self.pretrained_cfg.input_size or [3])[0]
        if self.model_args.get("in_chans", channels) != channels:
            raise ValueError(f"model_args.in_chans {self.model_args['in_chans']} must be as in input_size, {channels}")
        return self

    @property
    def names(self) -> list[str] | None:
        """Class of each logit, where that is known."""
        return self.label_names or self.pretrained_cfg.label_names

    @property
    def classes(self) -> int | None:
        """Number of classes, where that is known."""
        return self.num_classes or self.pretrained_cfg.num_classes or (len(self.names) if self.names else None)


class OwnData(TimmData):
    """What a network that was saved here is given."""

    input_size: Annotated[list[Side], Field(min_length=3, max_length=3)]
    mean: Annotated[Means, Field(min_length=3, max_length=3)]
    std: Annotated[Stds, Field(min_length=3, max_length=3)]


class OwnConfig(TimmConfig):
    """The config.json of a network that was saved here; see `classifiers.save_network`."""

    num_classes: Count
    label_names: Names
    pretrained_cfg: OwnData


class TransformersConfig(Config):
    """The config.json of a classifier of transformers."""

    model_type: str
    id2label: Annotated[Names, BeforeValidator(_mapped)] | None = None
    num_channels: Literal[1, 3] = 3
    quantization_config: None = None  # weights are read as they are


class Extent(Config):
    """A size of a processor of transformers, in pixels."""

    height: Side | None = None
    width: Side | None = None
    shortest_edge: Side | None = None

    @property
    def side(self) -> int | None:
        """Side that a square image gets; None: none is named, or another shape."""
        if self.height or self.width:
            return self.height if self.height == self.width else None
        return self.shortest_edge


class ProcessorConfig(Config):
    """What a processor of transformers does to an image, as the processor itself says once it is built."""

    image_processor_type: str
    do_resize: bool | None = False
    size: Extent | None = None
    resample: int | None = None
    crop_pct: Annotated[float, Field(gt=0, le=1)] | None = None
    do_center_crop: bool | None = False
    crop_size: Extent | None = None
    do_rescale: bool | None = False
    rescale_factor: Annotated[float, Field(gt=0, le=1e6)] = 1 / 255
    rescale_offset: bool | None = False
    do_normalize: bool | None = False
    include_top: bool | None = False
    image_mean: Mean | Means = 0.0
    image_std: Std | Stds = 1.0

    @model_validator(mode="after")
    def _of_one_length(self):
        for name, numbers in (("image_mean", self.image_mean), ("image_std", self.image_std)):
            if isinstance(numbers, list) and len(numbers) not in (1, 3):
                raise ValueError(f"{name} must be one number or three")
        return self


class PipelineIndex(Config):
    """The model_index.json of a DiTPipeline: nothing but the classes that are known here is built."""

    transformer: tuple[Literal["diffusers"], Literal["DiTTransformer2DModel", "Transformer2DModel"]]
    vae: tuple[Literal["diffusers"], Literal["AutoencoderKL"]]
    id2label: Names | None = None
    timestep_features: Literal["dit", "diffusers"] | None = None  # that a DiT was trained with; where we converted it

    @model_validator(mode="before")
    @classmethod
    def _tuples(cls, content: Any) -> Any:
        """JSON has lists where a pair is meant."""
        return {key: tuple(value) if isinstance(value, list) else value for key, value in content.items()}


class MarIndex(PipelineIndex):
    """The model_index.json of a MARPipeline."""

    transformer: tuple[Literal["distill_hub"], Literal["MAR"]]


Width = Annotated[int, Field(gt=0, le=8192)]


class TransformerConfig(Config):
    """The config.json of a DiT."""

    num_attention_heads: Annotated[int, Field(gt=0, le=256)] = 16
    attention_head_dim: Annotated[int, Field(gt=0, le=1024)] = 72
    in_channels: Annotated[int, Field(gt=0, le=256)] = 4
    out_channels: Annotated[int, Field(gt=0, le=512)] | None = None
    num_layers: Annotated[int, Field(gt=0, le=256)] = 28
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0
    attention_bias: bool = True
    sample_size: Annotated[int, Field(gt=0, le=256)] = 32  # side of the latents
    patch_size: Annotated[int, Field(gt=0, le=64)] = 2
    activation_fn: Literal["gelu", "gelu-approximate", "geglu", "geglu-approximate", "swiglu", "linear-silu"] = (
        "gelu-approximate"
    )
    num_classes: Count = Field(1000, alias="num_embeds_ada_norm")  # beside the null class
    upcast_attention: bool = False
    norm_type: Literal["ada_norm_zero"] = "ada_norm_zero"
    norm_elementwise_affine: bool = False
    norm_eps: Annotated[float, Field(gt=0, lt=1)] = 1e-5
    quantization_config: None = None

    @model_validator(mode="after")
    def _fits(self):
        if self.sample_size % self.patch_size:
            raise ValueError(f"sample_size {self.sample_size} must be a multiple of patch_size {self.patch_size}")
        if self.out_channels not in (None, self.in_channels, 2 * self.in_channels):
            raise ValueError(f"out_channels {self.out_channels} must be in_channels {self.in_channels} or twice as many")
        if self.num_attention_heads * self.attention_head_dim > 16_384:
            raise ValueError("num_attention_heads * attention_head_dim must be at most 16384")
        return self


class MarConfig(Config):
    """The config.json of a MAR. Its tokens are square patches of the latents."""

    in_channels: Annotated[int, Field(gt=0, le=256)] = 16
    sample_size: Annotated[int, Field(gt=0, le=256)] = 16  # side of the latents
    patch_size: Annotated[int, Field(gt=0, le=64)] = 1
    width: Width
    heads: Annotated[int, Field(gt=0, le=256)]
    encoder_layers: Annotated[int, Field(gt=0, le=256)]
    decoder_layers: Annotated[int, Field(gt=0, le=256)]
    head_width: Width
    head_layers: Annotated[int, Field(gt=0, le=256)]
    buffer_size: Annotated[int, Field(gt=0, le=1024)] = 64  # places in front of the tokens that hold the class
    num_classes: Count = 1000

    @model_validator(mode="after")
    def _fits(self):
        if self.sample_size % self.patch_size:
            raise ValueError(f"sample_size {self.sample_size} must be a multiple of patch_size {self.patch_size}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} must be a multiple of heads {self.heads}")
        return self


class VaeConfig(Config):
    """The config.json of the autoencoder of a DiTPipeline."""

    in_channels: Literal[3] = 3
    out_channels: Literal[3] = 3
    down_block_types: Annotated[
        list[Literal["DownEncoderBlock2D", "AttnDownEncoderBlock2D"]], Field(min_length=1, max_length=8)
    ] = ["DownEncoderBlock2D"]
    up_block_types: Annotated[
        list[Literal["UpDecoderBlock2D", "AttnUpDecoderBlock2D"]], Field(min_length=1, max_length=8)
    ] = ["UpDecoderBlock2D"]
    block_out_channels: Annotated[list[Width], Field(min_length=1, max_length=8)] = [64]
    layers_per_block: Annotated[int, Field(gt=0, le=32)] = 1
    act_fn: Literal["silu", "swish", "mish", "gelu", "relu"] = "silu"
    latent_channels: Annotated[int, Field(gt=0, le=256)] = 4
    norm_num_groups: Annotated[int, Field(gt=0, le=8192)] = 32
    sample_size: Annotated[int, Field(gt=0, le=8192)] = 32
    scaling_factor: Annotated[float, Field(ge=1e-6, le=1e6)] = 0.18215
    shift_factor: Literal[0] | None = None  # a shift of the latents, or their statistics, are not applied here
    latents_mean: None = None
    latents_std: None = None
    force_upcast: bool = True
    use_quant_conv: bool = True
    use_post_quant_conv: bool = True
    mid_block_add_attention: bool = True
    quantization_config: None = None

    @model_validator(mode="after")
    def _fits(self):
        if not len(self.down_block_types) == len(self.up_block_types) == len(self.block_out_channels):
            raise ValueError("down_block_types, up_block_types and block_out_channels must be of one length")
        if any(channels % self.norm_num_groups for channels in self.block_out_channels):
            raise ValueError(f"block_out_channels must be multiples of norm_num_groups {self.norm_num_groups}")
        return self

    @property
    def downscale(self) -> int:
        """Pixels per latent, along each side."""
        return 2 ** (len(self.block_out_channels) - 1)


class SingleVaeConfig(VaeConfig):
    """The config.json of an autoencoder in a folder of its own, where no model_index.json says what it is."""

    class_name: Literal["AutoencoderKL"] = Field(alias="_class_name")


class NoiseConfig(Config):
    """The noise schedule in scheduler_config.json. How it is walked through, the sampler's options say."""

    num_train_timesteps: Annotated[int, Field(ge=2, le=100_000)] = 1000
    beta_start: Annotated[float, Field(gt=0, lt=1)] = 0.0001
    beta_end: Annotated[float, Field(gt=0, lt=1)] = 0.02
    beta_schedule: Literal["linear", "scaled_linear", "squaredcos_cap_v2"] = "linear"
    trained_betas: list[Annotated[float, Field(gt=0, lt=1)]] | None = None
    prediction_type: Literal["epsilon"] = "epsilon"  # the network's output is the noise
    rescale_betas_zero_snr: Literal[False] = False
    thresholding: Literal[False] = False  # latents have no range

    @model_validator(mode="after")
    def _fits(self):
        if self.trained_betas is not None and len(self.trained_betas) != self.num_train_timesteps:
            raise ValueError(f"trained_betas must have num_train_timesteps {self.num_train_timesteps} numbers")
        return self


class FlowConfig(Config):
    """The scheduler_config.json of a SiT: a straight line from data to noise, in even steps."""

    shift: Annotated[float, Field(ge=1, le=1)] = 1.0
    use_dynamic_shifting: Literal[False] = False


class ShardIndex(Config):
    """The index of weights in several files, all in one folder."""

    weight_map: Annotated[
        dict[str, Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]*\.safetensors$")]], Field(min_length=1)
    ]
