"""Stable Diffusion 1.x, 2.x base and XL (Rombach et al., 2022; Podell et al., 2023), drawing classes by prompts.

In diffusers' StableDiffusionPipeline and StableDiffusionXLPipeline layouts, of networks that predict the noise. What is not
built: Stable Diffusion 3, Flux and Sana, which are flows with text encoders of billions of weights (T5, Gemma), and PixArt,
which has T5, too. Each would be a file beside this one: embeddings of its own, and `Diffusion` or a flow's sampler.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from distill_hub.config import InputError
from distill_hub.data.classes import SourceClass
from distill_hub.data.prompts import TEMPLATE, prompts_of
from distill_hub.generators.autoencoder import Autoencoder
from distill_hub.generators.base import GeneratorFacts, Guide
from distill_hub.generators.diffusion import SCHEDULERS, Diffusion, Noising, classifier_free
from distill_hub.generators.known import text_license
from distill_hub.generators.text_pipeline import TextParts, load_text_pipeline
from distill_hub.networks.folders import building

FACTS = {
    "name": "text",
    "title": "Latent diffusion, plain samples: High-Resolution Image Synthesis with Latent Diffusion Models",
    "paper": "https://arxiv.org/abs/2112.10752",
    "bibtex": """@inproceedings{rombach2022latent,
  title = {High-Resolution Image Synthesis with Latent Diffusion Models},
  author = {Rombach, Robin and Blattmann, Andreas and Lorenz, Dominik and Esser, Patrick and Ommer, Bj{\\"o}rn},
  booktitle = {IEEE/CVF Conference on Computer Vision and Pattern Recognition},
  year = {2022},
}""",
}
PIPELINES = ("StableDiffusionPipeline", "StableDiffusionXLPipeline")
DEFAULTS: dict[str, Any] = {
    "scheduler": "ddim",
    "sample_steps": 50,
    "guidance_scale": 7.5,
    "vae": None,
    "vae_revision": None,
    "prompts": None,
    "prompt_template": TEMPLATE,
    "negative_prompt": None,
    "compile_set": False,
}
SAMPLERS = tuple(SCHEDULERS)
_AT_A_TIME = 64  # prompts that are embedded side by side


class TextGenerator:
    """A frozen Stable Diffusion with its VAE and sampler: a `Generator`, which documents its methods.

    Its classes are those it has prompts for. No class is the negative prompt. Prompts are embedded once, here, and the
    embeddings stay on the device: 118 KB of a class in half precision, of XL 315 KB.

    Latents are in the diffusion model's scale: VAE latents times `vae.config.scaling_factor`. An XL network is told that its
    images are whole and of the size that it draws, as the pipeline does unless told otherwise.

    Args:
        parts: Networks, tokenizers and schedule.
        prompts: C prompts, one for each class.
        class_names: Names of the classes, in the order of their prompts.
        negative_prompt: What images without a class show, and what guidance leads away from. Where it is empty, an XL
            pipeline may have zeros instead, as it says itself.
        scheduler: Key of `diffusion.SCHEDULERS`.
        steps: Denoising steps per sample.
        guidance_scale: Classifier-free guidance; 1 switches it off and halves the cost.
        device: Where to run.
        license: Of the weights.
        compiled: Whether to compile the network, for each size of a batch; numbers are the same up to rounding.

    Raises:
        InputError: For a prompt that the text encoder cannot read as a whole.
    """

    def __init__(
        self,
        parts: TextParts,
        prompts: Sequence[str],
        class_names: Sequence[str],
        *,
        negative_prompt: str = "",
        scheduler: str = "ddim",
        steps: int = 50,
        guidance_scale: float = 7.5,
        device: torch.device | str = "cpu",
        license: str | None = None,
        compiled: bool = False,
    ):
        self.unet = parts.unet.to(device).eval().requires_grad_(False)
        if compiled:
            self.unet.compile(dynamic=False)
        self.autoencoder = Autoencoder(parts.vae, parts.decoder, device)
        self.decode, self.posterior = self.autoencoder.decode, self.autoencoder.posterior
        encoders = [encoder.to(device).eval().requires_grad_(False) for encoder in parts.encoders]
        self.facts = GeneratorFacts(
            name="Stable Diffusion XL" if parts.is_xl else "Stable Diffusion",
            method=FACTS,
            architecture=type(self.unet).__name__,
            modules=(self.unet, self.autoencoder.vae, *encoders),
            folder=parts.folder,
            revision=parts.commit,
            license=license,
            decoder=parts.decoder,
            prompts=(*prompts, negative_prompt),
        )
        config = self.unet.config
        self.guidance_scale, self.device = guidance_scale, torch.device(device)
        self.latent_shape = (config.in_channels, config.sample_size, config.sample_size)
        self.image_size = config.sample_size * self.autoencoder.downscale
        self.class_names = list(class_names)
        self.diffusion = Diffusion(parts.schedule, self.latent_shape, scheduler=scheduler, steps=steps, device=device)
        self._embeddings, self._pooled = _embed(parts, [*prompts, negative_prompt])  # (C + 1, L, width), (C + 1, p) or None
        for encoder in encoders:  # which have nothing left to do; those of XL take 1.6 GB in half precision
            encoder.to("cpu")
        if parts.zero_null and not negative_prompt:
            self._embeddings[-1] = 0
            if self._pooled is not None:
                self._pooled[-1] = 0

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
        rows, guided = self._rows(class_ids), self.guidance_scale != 1
        if guided:  # one forward for both conditions
            rows = torch.cat([rows, torch.full_like(rows, -1)])

        def predict(latents: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
            twice = torch.cat([latents, latents]) if guided else latents
            output = self._forward(twice, t.expand(len(twice)), rows)
            return classifier_free(output, self.guidance_scale, latents.shape[1]) if guided else output

        return self.diffusion.sample(predict, seeds, guide=guide, start=start, strength=strength)

    def corruption(
        self, draws: Sequence[torch.Generator], *, most: float | None = None, noise: torch.Tensor | None = None
    ) -> Noising:
        """See `Diffusion.corruption`."""
        return self.diffusion.corruption(draws, most=most, noise=noise)

    def residual(self, latents: torch.Tensor, corruption: Noising, class_ids: Sequence[int | None]) -> torch.Tensor:
        """See `Generator.residual`: ε_θ(z_t, t, prompt) − ε."""
        noisy = self.diffusion.add_noise(latents, corruption.noise, corruption.timesteps)
        return (self._forward(noisy, corruption.timesteps, self._rows(class_ids)) - corruption.noise).flatten(1)

    def _rows(self, class_ids: Sequence[int | None]) -> torch.Tensor:
        """Return the row of each class in the table of embeddings, (B,); that of none is the last."""
        return torch.tensor([len(self.class_names) if id is None else id for id in class_ids], device=self.device)

    def _forward(self, noisy: torch.Tensor, timesteps: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        how: dict[str, Any] = {"encoder_hidden_states": self._embeddings[rows]}
        if self._pooled is not None:
            side = float(self.image_size)  # of the image that it is cut from, where the cut begins, and of the image
            size = torch.tensor([side, side, 0, 0, side, side], device=self.device).expand(len(rows), -1)
            how["added_cond_kwargs"] = {"text_embeds": self._pooled[rows], "time_ids": size}
        return self.unet(noisy.to(self.unet.dtype), timesteps, **how).sample.float()


@torch.no_grad()
def _embed(parts: TextParts, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return what the UNet is told of each prompt: of every token, and of the whole where it is told that, too.

    Args:
        parts: Text encoders and tokenizers among them.
        prompts: P prompts, the last of which is the negative one.

    Returns:
        (P, L, width), and (P, projected width) of an XL pipeline, else None.

    Raises:
        InputError: For a prompt of more tokens than a text encoder reads: cut, it might be another class's.
    """
    hidden, pooled = [], None
    for encoder, tokenizer in zip(parts.encoders, parts.tokenizers, strict=True):
        most = encoder.config.max_position_embeddings
        with building("generator", str(parts.folder), "its tokenizers must read prompts"):
            lengths = [len(ids) for ids in tokenizer(list(prompts)).input_ids]
        for place, length in enumerate(lengths):
            if length > most:
                field = "negative_prompt" if place == len(prompts) - 1 else "prompts"
                raise InputError(field, prompts[place], f"it has {length} tokens; the text encoder reads {most}")
        words, wholes = [], []
        for first in range(0, len(prompts), _AT_A_TIME):
            some = list(prompts[first : first + _AT_A_TIME])
            ids = tokenizer(some, padding="max_length", max_length=most, return_tensors="pt").input_ids
            output = encoder(ids.to(encoder.device), output_hidden_states=parts.is_xl)
            # Of XL the last layer but one, before the final norm (Podell et al., 2023, Sec. 2.1).
            words.append(output.hidden_states[-2] if parts.is_xl else output.last_hidden_state)
            if "text_embeds" in output:
                wholes.append(output.text_embeds)
        hidden.append(torch.cat(words))
        pooled = torch.cat(wholes) if wholes else None
    return torch.cat(hidden, dim=-1), pooled


def load(
    name: str,
    *,
    revision: str | None,
    device: torch.device | str,
    dtype: torch.dtype,
    classes: Sequence[SourceClass],
    scheduler: str,
    sample_steps: int,
    guidance_scale: float,
    vae: str | None,
    vae_revision: str | None,
    prompts: str | None,
    prompt_template: str,
    negative_prompt: str | None,
    compile_set: bool = False,
) -> TextGenerator:
    """Load a Hub repository or folder in the layout of one of `PIPELINES`, to draw the classes of a source.

    Args:
        name: Hub id or folder.
        revision: Branch, tag or commit on the Hub.
        device: Where to run.
        dtype: Precision of UNet and text encoders. The VAE stays in float32: decoding is a small share of the cost, and half
            precision would show in the published pixels.
        classes: Of the source. They are the generator's own, in the same order.
        scheduler: See the class.
        sample_steps: Denoising steps per sample.
        guidance_scale: See the class.
        vae: Hub id or folder of an AutoencoderKL that decodes in place of the pipeline's own.
        vae_revision: Branch, tag or commit of that on the Hub.
        prompts: File; see `prompts_of`, as for the next.
        prompt_template: What names are put into.
        negative_prompt: See the class; None: empty.
        compile_set: See the class: `compiled`.

    Raises:
        InputError: See `prompts_of` and `load_text_pipeline`.
    """
    table = prompts_of(classes, prompt_template, Path(prompts) if prompts else None)
    parts = load_text_pipeline(name, revision, dtype, vae=vae, vae_revision=vae_revision)
    return TextGenerator(
        parts,
        table,
        [c.wnid or c.name for c in classes],
        negative_prompt=negative_prompt or "",
        scheduler=scheduler,
        steps=sample_steps,
        guidance_scale=guidance_scale,
        device=device,
        license=text_license(name, parts.folder),
        compiled=compile_set,
    )
