"""Class-conditional diffusion transformers (Peebles and Xie, 2023) in diffusers' DiTPipeline layout.

diffusers' own `DiTPipeline.__call__` uses 1000 as the null class, so it cannot sample from a model with another number of
classes; the loop here uses the schedulers' public interface instead.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import torch
from diffusers import DDIMScheduler, DDPMScheduler, DiTPipeline, DPMSolverMultistepScheduler
from huggingface_hub import snapshot_download
from safetensors import SafetensorError

from distill_hub.config import InputError
from distill_hub.generators.known import NEEDED, TUNING
from distill_hub.running.seeds import cpu_generator

FACTS = {
    "name": "dit",
    "title": "Scalable Diffusion Models with Transformers (plain samples)",
    "paper": "https://arxiv.org/abs/2212.09748",
    "bibtex": """@inproceedings{peebles2023dit,
  title = {Scalable Diffusion Models with Transformers},
  author = {Peebles, William and Xie, Saining},
  booktitle = {International Conference on Computer Vision},
  year = {2023},
}""",
}

# The respaced timesteps of each sampler. "linspace" for DDPM is the spacing of DiT's own sampler (0, 20.4, ..., 999 for 50
# steps); diffusers' DDIM step assumes equal strides, and "trailing" is the one that starts at pure noise.
SCHEDULERS = {
    "ddpm": (DDPMScheduler, "linspace"),
    "ddim": (DDIMScheduler, "trailing"),
    "dpm-solver++": (DPMSolverMultistepScheduler, "linspace"),
}


class DiTGenerator:
    """A frozen DiT with its VAE and sampler.

    Latents are in the diffusion model's scale (VAE latents times `vae.config.scaling_factor`), float32
    (B, channels, height, width). Images are float32 (B, 3, H, W) in [0, 1].

    Args:
        pipeline: Transformer, VAE and scheduler.
        class_names: Names of the classes, in the order of their ids; empty when they are not known.
        scheduler: Key of `SCHEDULERS`.
        steps: Denoising steps per sample.
        guidance_scale: Classifier-free guidance; 1 switches it off and halves the cost.
        device: Where to run.
        folder: Where the pipeline lies.
        revision: Commit on the Hub.
    """

    def __init__(
        self,
        pipeline: DiTPipeline,
        class_names: Sequence[str] = (),
        *,
        scheduler: str = "ddpm",
        steps: int = 50,
        guidance_scale: float = 4.0,
        device: torch.device | str = "cpu",
        folder: Path | None = None,
        revision: str | None = None,
    ):
        # eval(): in train mode diffusers drops 10 % of the labels, in every block on its own.
        self.transformer = pipeline.transformer.to(device).eval().requires_grad_(False)
        self.vae = pipeline.vae.to(device).eval().requires_grad_(False)
        self.folder, self.revision = folder, revision
        self.steps, self.guidance_scale, self.device = steps, guidance_scale, torch.device(device)
        config = self.transformer.config
        self.latent_shape = (config.in_channels, config.sample_size, config.sample_size)
        self.learned_variance = config.out_channels == 2 * config.in_channels
        self.null_class = config.num_embeds_ada_norm  # the row behind the last class in the label embedding
        self.image_size = config.sample_size * 2 ** (len(self.vae.config.block_out_channels) - 1)
        self.class_names = list(class_names)
        kind, spacing = SCHEDULERS[scheduler]
        changes = {"timestep_spacing": spacing, "clip_sample": False}  # latents are not bounded by 1
        if kind is DDPMScheduler:
            changes["variance_type"] = "learned_range" if self.learned_variance else "fixed_small"
        self.scheduler = kind.from_config(pipeline.scheduler.config, **changes)
        self.alphas_cumprod = self.scheduler.alphas_cumprod.to(self.device, torch.float32)  # (T,)

    @classmethod
    def from_pretrained(
        cls, name: str, *, revision: str | None = None, dtype: torch.dtype = torch.float32, **settings
    ) -> "DiTGenerator":
        """Load a Hub repository or folder in the DiTPipeline layout; safetensors weights only.

        Where the repository has a `tuning.json`, it lies in `folder` afterwards.

        Args:
            name: Hub id or folder.
            revision: Branch, tag or commit on the Hub.
            dtype: Precision of the transformer. The VAE stays in float32: decoding is a small share of the cost, and half
                precision would show in the published pixels.
            **settings: See the class.

        Raises:
            InputError: When a file is missing, truncated, or does not fit its config.
        """
        commit = None
        try:
            folder = Path(name)
            if not folder.exists():
                folder = Path(DiTPipeline.download(name, revision=revision, use_safetensors=True))
                commit = folder.name  # .../snapshots/<commit>
                # Of the files at the root, download() takes model_index.json alone. That is asked for once more because the
                # client warns when there is nothing to fetch.
                snapshot_download(name, revision=commit, allow_patterns=["model_index.json", TUNING])
            pipeline = DiTPipeline.from_pretrained(
                folder, use_safetensors=True, dtype={"transformer": dtype, "default": torch.float32}
            )
        except (OSError, ValueError, RuntimeError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            raise InputError("generator", name, f"{NEEDED} ({reason})") from error
        if not isinstance(pipeline, DiTPipeline):
            raise InputError("generator", name, f"a DiTPipeline is needed, this is a {type(pipeline).__name__}")
        # diffusers reads id2label from model_index.json but keeps only a map from single synonyms to ids.
        labels = json.loads((folder / "model_index.json").read_text()).get("id2label", {})
        names = [labels[id] for id in sorted(labels, key=int)]
        return cls(pipeline, names, folder=folder, revision=commit, **settings)

    def predict_noise(self, noisy: torch.Tensor, timesteps: torch.Tensor, class_ids: torch.Tensor) -> torch.Tensor:
        """Predict the noise in noisy latents, differentiable in `noisy`.

        Args:
            noisy: (B, channels, height, width).
            timesteps: (B,) in [0, T).
            class_ids: (B,) in [0, null_class].

        Returns:
            float32, the shape of `noisy`. A learned variance is left out.
        """
        return self._forward(noisy, timesteps, class_ids)[:, : noisy.shape[1]]

    def _forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, class_ids: torch.Tensor) -> torch.Tensor:
        return self.transformer(noisy.to(self.transformer.dtype), timestep=timesteps, class_labels=class_ids).sample.float()

    def add_noise(self, latents: torch.Tensor, noise: torch.Tensor, timesteps: torch.Tensor) -> torch.Tensor:
        """Return √ᾱ_t·latents + √(1−ᾱ_t)·noise for timesteps (B,)."""
        alpha = self.alphas_cumprod[timesteps].view(-1, 1, 1, 1)
        return alpha.sqrt() * latents + (1 - alpha).sqrt() * noise

    @torch.inference_mode()
    def sample(self, class_ids: Sequence[int], seeds: Sequence[int]) -> torch.Tensor:
        """Draw one latent per (class id, seed). Each depends on its own seed alone, not on the batch it is drawn in.

        Args:
            class_ids: B classes of this generator.
            seeds: B seeds of CPU generators, which give the initial noise and the noise of every ancestral step.

        Returns:
            float32 (B, channels, height, width).
        """
        generators = [cpu_generator(seed) for seed in seeds]
        latents = torch.stack([torch.randn(self.latent_shape, generator=g) for g in generators]).to(self.device)
        classes = torch.tensor(class_ids, device=self.device)
        guided = self.guidance_scale != 1
        if guided:  # one forward for both conditions
            classes = torch.cat([classes, torch.full_like(classes, self.null_class)])
        self.scheduler.set_timesteps(self.steps)
        extra = {"generator": generators} if isinstance(self.scheduler, DDPMScheduler) else {}
        for t in self.scheduler.timesteps:
            twice = torch.cat([latents, latents]) if guided else latents
            output = self._forward(twice, t.to(self.device).expand(len(twice)), classes)
            channels = latents.shape[1]
            if guided:
                conditional, unconditional = output.chunk(2)
                noise = unconditional[:, :channels]
                # All latent channels are guided, as in diffusers; DiT's own code guides the first three only. The learned
                # variance is the conditional one.
                noise = noise + self.guidance_scale * (conditional[:, :channels] - noise)
                output = torch.cat([noise, conditional[:, channels:]], dim=1)
            if self.scheduler.config.get("variance_type") != "learned_range":
                output = output[:, :channels]
            latents = self.scheduler.step(output, t, latents, **extra).prev_sample
        return latents

    def decode(self, latents: torch.Tensor) -> torch.Tensor:
        """Decode latents to images in [0, 1], differentiable in `latents`."""
        return (self.vae.decode(latents / self.vae.config.scaling_factor).sample / 2 + 0.5).clamp(0, 1)

    def encode(self, images: torch.Tensor) -> torch.Tensor:
        """Encode images in [0, 1] to the mean of the VAE's posterior, in the diffusion model's scale."""
        return self.posterior(images)[0]

    def posterior(self, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return mean and standard deviation of the VAE's posterior of images in [0, 1], in the diffusion model's scale."""
        posterior = self.vae.encode(images * 2 - 1).latent_dist
        return posterior.mean * self.vae.config.scaling_factor, posterior.std * self.vae.config.scaling_factor
