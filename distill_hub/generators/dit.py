"""Class-conditional diffusion transformers (Peebles and Xie, 2023) in diffusers' DiTPipeline layout.

diffusers' own `DiTPipeline.__call__` uses 1000 as the null class, so it cannot sample from a model with another number of
classes; `diffusion.Diffusion` has the loop.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, DiTPipeline, DiTTransformer2DModel
from diffusers.models.embeddings import Timesteps
from torch.func import functional_call

from distill_hub.config import InputError
from distill_hub.data.classes import SourceClass
from distill_hub.generators.autoencoder import Autoencoder
from distill_hub.generators.base import Decoder, GeneratorFacts, Guide
from distill_hub.generators.difffit import prepare
from distill_hub.generators.diffusion import SCHEDULERS, Diffusion, Noising, classifier_free
from distill_hub.generators.known import DIT_LICENSE, PHASES, is_imagenet_dit, stated_license, tuned_from
from distill_hub.generators.phases import Phases, read_phases
from distill_hub.generators.pipeline import load_pipeline

FACTS = {
    "name": "dit",
    "title": "DiT, plain samples: Scalable Diffusion Models with Transformers",
    "paper": "https://arxiv.org/abs/2212.09748",
    "bibtex": """@inproceedings{peebles2023dit,
  title = {Scalable Diffusion Models with Transformers},
  author = {Peebles, William and Xie, Saining},
  booktitle = {International Conference on Computer Vision},
  year = {2023},
}""",
}
PIPELINES = ("DiTPipeline",)
DEFAULTS = {
    "scheduler": "ddpm",
    "sample_steps": 50,
    "guidance_scale": 2.7,  # as in CaO2's code
    "timestep_features": "auto",
    "guided_channels": None,
    "vae": None,
    "vae_revision": None,
    "compile_set": False,
}
SAMPLERS = tuple(SCHEDULERS)
# The i-th of 128 frequencies that tell the network its timestep is 10000^(-i/(128 - shift)). DiT's own code has i/128;
# diffusers has i/127, whatever code trained the weights. At t = 500 the two vectors have a cosine of 0.82.
TIMESTEP_FEATURES = {"dit": 0, "diffusers": 1}


class DiTGenerator:
    """A frozen DiT with its VAE and sampler: a `Generator`, which documents its methods.

    Latents are in the diffusion model's scale: VAE latents times `vae.config.scaling_factor`. Where another VAE decodes, the
    pipeline's own still encodes real images. That is how Minimax Diffusion's code works: it tunes on latents of
    stabilityai/sd-vae-ft-ema, which diffusers' conversion put into DiT-XL/2's pipeline, and decodes samples with -mse.

    Args:
        pipeline: Transformer, VAE and scheduler.
        class_names: Names of the classes, in the order of their ids; empty when they are not known.
        scheduler: Key of `diffusion.SCHEDULERS`.
        steps: Denoising steps per sample.
        guidance_scale: Classifier-free guidance; 1 switches it off and halves the cost.
        guided_channels: How many latent channels, from the first, it acts on; the others are the conditional network's.
            DiT's own code, and so Minimax Diffusion's and CaO2's, has 3 of 4, diffusers all, which None stands for.
        device: Where to run.
        timestep_features: Key of `TIMESTEP_FEATURES`: those that the weights were trained with.
        folder: Where the pipeline lies.
        revision: Commit on the Hub.
        license: Of the weights.
        decoder: Decodes in place of the pipeline's VAE.
        phases: The weights of each group of classes, of a transformer as `difffit.prepare` leaves it; None: all share one.
        compiled: Whether to compile the network, for each size of a batch; numbers are the same up to rounding.

    Raises:
        InputError: For more guided channels than there are.
    """

    def __init__(
        self,
        pipeline: DiTPipeline,
        class_names: Sequence[str] = (),
        *,
        scheduler: str = "ddpm",
        steps: int = 50,
        guidance_scale: float = 4.0,
        guided_channels: int | None = None,
        device: torch.device | str = "cpu",
        timestep_features: str = "diffusers",
        folder: Path | None = None,
        revision: str | None = None,
        license: str | None = None,
        decoder: Decoder | None = None,
        phases: Phases | None = None,
        compiled: bool = False,
    ):
        config = pipeline.transformer.config
        check_guided_channels(guided_channels, config.in_channels)
        # eval(): in train mode diffusers drops 10 % of the labels, in every block on its own.
        self.transformer = pipeline.transformer.to(device).eval().requires_grad_(False)
        if compiled:
            self.transformer.compile(dynamic=False)
        self.autoencoder = Autoencoder(pipeline.vae, decoder, device)
        self.decode, self.posterior = self.autoencoder.decode, self.autoencoder.posterior
        set_timestep_features(self.transformer, timestep_features)
        self.facts = GeneratorFacts(
            name="DiT",
            method=FACTS,
            architecture=type(self.transformer).__name__,
            modules=(self.transformer, self.autoencoder.vae, *([phases] if phases else [])),
            folder=folder,
            revision=revision,
            license=license,
            timestep_features=timestep_features,
            decoder=decoder,
            classes=phases.classes if phases else None,
        )
        self.guidance_scale, self.device = guidance_scale, torch.device(device)
        self._phases = phases
        self._weights: dict[str, torch.Tensor] = {}  # of the phase that is at work
        self.guided_channels = guided_channels or config.in_channels
        self.latent_shape = (config.in_channels, config.sample_size, config.sample_size)
        self._null_class = config.num_embeds_ada_norm  # the row behind the last class in the label embedding
        self.image_size = config.sample_size * self.autoencoder.downscale
        self.class_names = list(class_names)
        self.diffusion = Diffusion(
            pipeline.scheduler.config,
            self.latent_shape,
            scheduler=scheduler,
            steps=steps,
            learned_variance=config.out_channels == 2 * config.in_channels,
            device=device,
        )

    @classmethod
    def from_pretrained(
        cls,
        name: str,
        *,
        revision: str | None = None,
        dtype: torch.dtype = torch.float32,
        timestep_features: str = "auto",
        vae: str | None = None,
        vae_revision: str | None = None,
        **settings: Any,
    ) -> "DiTGenerator":
        """Load a Hub repository or folder in the DiTPipeline layout; safetensors weights only.

        Where the repository has a `tuning.json`, it lies in `facts.folder` afterwards.

        Args:
            name: Hub id or folder.
            revision: Branch, tag or commit on the Hub.
            dtype: Precision of the transformer. The VAE stays in float32: decoding is a small share of the cost, and half
                precision would show in the published pixels.
            timestep_features: Key of `TIMESTEP_FEATURES`, or 'auto': what the folder says, 'dit' for `IMAGENET_DIT`,
                those of its base for a generator that distill-hub tuned, else 'diffusers'.
            vae: Hub id or folder of an AutoencoderKL that decodes in place of the pipeline's own.
            vae_revision: Branch, tag or commit of that on the Hub.
            **settings: See the class.

        Raises:
            InputError: When a file is missing, truncated, or does not fit its config.
        """
        loaded = load_pipeline(name, revision, dtype, vae=vae, vae_revision=vae_revision)
        folder, how = loaded.folder, {"folder": loaded.folder, "revision": loaded.commit, **settings}
        license, features = _origin(name, folder)
        features = loaded.timestep_features or features if timestep_features == "auto" else timestep_features
        transformer = loaded.transformer
        if (folder / PHASES).is_file():
            how["phases"] = read_phases(folder, prepare(transformer), transformer.config.num_embeds_ada_norm, name)
        pipeline = DiTPipeline(transformer, loaded.vae, DDPMScheduler(**loaded.noise.model_dump()))
        return cls(pipeline, loaded.class_names, license=license, timestep_features=features, decoder=loaded.decoder, **how)

    def sample(
        self,
        class_ids: Sequence[int | None],
        seeds: Sequence[int],
        *,
        guide: Guide | None = None,
        start: torch.Tensor | None = None,
        strength: float = 1.0,
    ) -> torch.Tensor:
        """See `Generator.sample` and `Diffusion.sample`."""
        if self._phases is None:
            return self._sample(class_ids, seeds, guide, start, strength)

        def of(rows: list[int]) -> torch.Tensor:
            own = [class_ids[row] for row in rows], [seeds[row] for row in rows]
            part = guide and guide.take(rows), None if start is None else start[rows]
            return self._sample(*own, *part, strength)

        return self._by_phase(self._phases, class_ids, of)

    def _by_phase(
        self, phases: Phases, class_ids: Sequence[int | None], function: Callable[[list[int]], torch.Tensor]
    ) -> torch.Tensor:
        """Call a function on the rows of each phase, with its weights in the network; return the results in their order."""
        results, places = [], []
        for phase, rows in phases.split(class_ids).items():
            self._weights = phases.weights(phase, self.transformer)
            results.append(function(rows))
            places += rows
        self._weights = {}
        return torch.cat(results)[torch.tensor(places, device=self.device).argsort()]

    def _sample(
        self,
        class_ids: Sequence[int | None],
        seeds: Sequence[int],
        guide: Guide | None,
        start: torch.Tensor | None,
        strength: float,
    ) -> torch.Tensor:
        classes = self._conditions(class_ids)
        guided = self.guidance_scale != 1
        if guided:  # one forward for both conditions
            classes = torch.cat([classes, torch.full_like(classes, self._null_class)])

        def predict(latents: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            twice = torch.cat([latents, latents]) if guided else latents
            output = self._forward(twice, t.expand(len(twice)), classes)
            return classifier_free(output, self.guidance_scale, self.guided_channels) if guided else output

        return self.diffusion.sample(predict, seeds, guide=guide, start=start, strength=strength)

    def corruption(
        self, draws: Sequence[torch.Generator], *, most: float | None = None, noise: torch.Tensor | None = None
    ) -> Noising:
        """See `Diffusion.corruption`."""
        return self.diffusion.corruption(draws, most=most, noise=noise)

    def residual(self, latents: torch.Tensor, corruption: Noising, class_ids: Sequence[int | None]) -> torch.Tensor:
        """See `Generator.residual`: ε_θ(z_t, t, c) − ε; a learned variance is left out."""
        if self._phases is None:
            return self._residual(latents, corruption, class_ids)

        def of(rows: list[int]) -> torch.Tensor:
            return self._residual(latents[rows], corruption.take(rows), [class_ids[row] for row in rows])

        return self._by_phase(self._phases, class_ids, of)

    def _residual(self, latents: torch.Tensor, corruption: Noising, class_ids: Sequence[int | None]) -> torch.Tensor:
        noise, timesteps = corruption.noise, corruption.timesteps
        output = self._forward(self.diffusion.add_noise(latents, noise, timesteps), timesteps, self._conditions(class_ids))
        return (output[:, : noise.shape[1]] - noise).flatten(1)

    def _conditions(self, class_ids: Sequence[int | None]) -> torch.Tensor:
        return torch.tensor([self._null_class if id is None else id for id in class_ids], device=self.device)

    def _forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, class_ids: torch.Tensor) -> torch.Tensor:
        how = {"timestep": timesteps, "class_labels": class_ids}
        noisy = noisy.to(self.transformer.dtype)
        # Not copied into the network: what was computed with another phase may still be differentiated.
        output = (
            functional_call(self.transformer, self._weights, (noisy,), how)
            if self._weights
            else self.transformer(noisy, **how)
        )
        return output.sample.float()


def load(
    name: str, *, classes: Sequence[SourceClass], sample_steps: int, compile_set: bool = False, **options: Any
) -> DiTGenerator:
    """See `kinds.Kind`."""
    return DiTGenerator.from_pretrained(name, steps=sample_steps, compiled=compile_set, **options)


@functools.cache
def _noise_process() -> DDPMScheduler:
    return DDPMScheduler(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=False)


def build(latent_shape: tuple[int, int, int], classes: int, width: int, layers: int) -> DiTTransformer2DModel:
    """See `kinds.Fittable`; the width is a multiple of 32."""
    model = DiTTransformer2DModel(
        num_attention_heads=width // 32,
        attention_head_dim=32,
        in_channels=latent_shape[0],
        num_layers=layers,
        sample_size=latent_shape[-1],
        patch_size=2,
        num_embeds_ada_norm=classes,
    )
    # The adaLN-Zero initialisation of DiT (Peebles and Xie, 2023, Sec. 3.2), which diffusers leaves out: every block starts
    # as the identity, the output as zero.
    zero = [block.norm1.linear for block in model.transformer_blocks] + [model.proj_out_2]
    for parameter in (parameter for layer in zero for parameter in layer.parameters()):
        torch.nn.init.zeros_(parameter)
    # eval(): diffusers' own label dropout draws anew in every block; in a fit one draw drops the label of the whole network.
    return model.eval()


def levels(draw: torch.Generator, batch: int) -> torch.Tensor:
    """See `kinds.Fittable`: timesteps."""
    return torch.randint(len(_noise_process()), (batch,), generator=draw)


def loss(
    network: DiTTransformer2DModel,
    latents: torch.Tensor,
    noise: torch.Tensor,
    levels: torch.Tensor,
    class_ids: torch.Tensor,
    draw: torch.Generator,
) -> torch.Tensor:
    """See `kinds.Fittable`: the error of the predicted noise (Ho et al., 2020, Eq. 14)."""
    noisy = _noise_process().add_noise(latents, noise, levels)
    return F.mse_loss(network(noisy, timestep=levels, class_labels=class_ids).sample, noise)


def save(network: DiTTransformer2DModel, vae: AutoencoderKL, folder: Path) -> None:
    """See `kinds.Fittable`."""
    DiTPipeline(network, vae, _noise_process()).save_pretrained(folder)


def set_timestep_features(network: DiTTransformer2DModel, features: str) -> None:
    """Tell a network its timestep by the sinusoids of a key of `TIMESTEP_FEATURES`."""
    for module in network.modules():
        if isinstance(module, Timesteps):  # one in every block
            module.downscale_freq_shift = TIMESTEP_FEATURES[features]


def check_guided_channels(guided: int | None, channels: int) -> None:
    """Refuse to guide more latent channels than there are.

    Raises:
        InputError: Saying how many there are.
    """
    if guided is not None and guided > channels:
        raise InputError(
            "guided_channels", guided, f"the generator has {channels} latent channels; valid: at most {channels}"
        )


def _origin(name: str, folder: Path) -> tuple[str | None, str]:
    """Return licence and timestep features of the weights in a folder that was asked for by a name."""
    if base := tuned_from(folder):
        # A generator that an older version tuned was tuned with the features that it had then.
        features = base.get("timestep_features") or "diffusers"
        return base.get("license") or (DIT_LICENSE if is_imagenet_dit(base.get("id", "")) else None), features
    if is_imagenet_dit(name):
        return DIT_LICENSE, "dit"
    return stated_license(folder), "diffusers"
