"""What both sides of a comparison work on: networks with random weights, images and seeds. Speed depends on none of them."""

import dataclasses
import tempfile
from functools import cached_property
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTPipeline, DiTTransformer2DModel

from distill_hub.classifiers import Classifier
from distill_hub.data.classes import SourceClass
from distill_hub.data.known import NORMALIZATIONS
from distill_hub.generators.dit import DiTGenerator
from distill_hub.networks.build import build
from distill_hub.running.run import Run
from distill_hub.running.seeds import draw_seed
from distill_hub.training.protocols import protocol
from distill_hub.training.settings import Settings, Task

CLASSES = 10
RECOVER_RATE, ROLL = 0.1, 32 / 224
PSR_RATE = 1e-4  # with random weights the default of 0.01 would drive the latents to infinity
KNOWN = [SourceClass(f"class {index}", index, None) for index in range(CLASSES)]


@dataclasses.dataclass(frozen=True)
class Scale:
    """How large everything is, and how much of it a measurement does."""

    heads: int  # of the diffusion transformer
    head: int  # width of a head
    blocks: int
    side: int  # of the latents
    learned_variance: bool
    labels: int  # classes that the generator knows
    vae_channels: tuple[int, ...]
    vae_layers: int
    vae_groups: int
    teacher: str
    student: str
    pixels: int  # side of the images that teacher and student see
    protocol: str
    steps: int  # of the refinements, a hundred in the papers
    batch: int  # images that are sampled or refined at a time
    batches: tuple[int, ...]  # other such batches
    plain: int  # images that the plain loops sample or refine
    recover: tuple[int, int]  # images, iterations
    tuning_steps: int
    epochs: int  # of stored views and of the student


SCALES = {
    # What `recipes/cao2.py` fits to 16 px digits.
    "digits": Scale(
        heads=3, head=32, blocks=4, side=8, learned_variance=False, labels=CLASSES, vae_channels=(16, 32), vae_layers=1,
        vae_groups=8, teacher="convnet-2-bn", student="convnet-2", pixels=16, protocol="quick", steps=50, batch=64,
        batches=(1, 8, 32, 128), plain=2, recover=(100, 10), tuning_steps=20, epochs=10,
    ),
    # DiT-XL/2 and Stable Diffusion's VAE at 256 px, ResNet-18 at 224 px. Fewer steps than a run has: they
    # all take the same time.
    "xl": Scale(
        heads=16, head=72, blocks=28, side=32, learned_variance=True, labels=1000, vae_channels=(128, 256, 512, 512),
        vae_layers=2, vae_groups=32, teacher="resnet-18-bn", student="resnet-18-bn", pixels=224, protocol="idc-hard",
        steps=25, batch=64, batches=(1, 8, 32), plain=2, recover=(100, 10), tuning_steps=10, epochs=5,
    ),
}  # fmt: skip


class Scene:
    """Everything of one scale on one device, each made when it is first used.

    Args:
        scale: See there.
        precise: Whether the generator is in float32, whatever the precision of the run: what is tuned is.
        compiled: Whether our networks are compiled.
    """

    def __init__(self, scale: Scale, *, precise: bool, compiled: bool):
        self.scale, self.compiled = scale, compiled
        self.folder = tempfile.TemporaryDirectory()
        self.run = Run(Path(self.folder.name, "run"), {})
        self.device, self.dtype = self.run.device, torch.float32 if precise else self.run.dtype

    @cached_property
    def generator(self) -> DiTGenerator:
        """The generator of what does not change it."""
        return self.make_generator()

    def make_generator(self) -> DiTGenerator:
        """Return the generator, always with the same weights."""
        scale = self.scale
        torch.manual_seed(0)
        with self.device:
            vae = AutoencoderKL(
                down_block_types=("DownEncoderBlock2D",) * len(scale.vae_channels),
                up_block_types=("UpDecoderBlock2D",) * len(scale.vae_channels),
                block_out_channels=scale.vae_channels,
                layers_per_block=scale.vae_layers,
                latent_channels=4,
                norm_num_groups=scale.vae_groups,
            )
            transformer = DiTTransformer2DModel(
                num_attention_heads=scale.heads,
                attention_head_dim=scale.head,
                out_channels=8 if scale.learned_variance else 4,
                num_layers=scale.blocks,
                sample_size=scale.side,
                num_embeds_ada_norm=scale.labels,
            )
        for block in transformer.transformer_blocks:  # one embedding in as many copies, as in the published DiT-XL/2
            block.norm1.emb.load_state_dict(transformer.transformer_blocks[0].norm1.emb.state_dict())
        scheduler = DDPMScheduler(beta_start=1e-4, beta_end=0.02, clip_sample=False)
        if self.dtype is not torch.float32:
            transformer.to(self.dtype)
        pipeline = DiTPipeline(transformer, vae, scheduler)
        return DiTGenerator(pipeline, steps=50, guidance_scale=4.0, device=self.device, compiled=self.compiled)

    @cached_property
    def teacher(self) -> Classifier:
        """The teacher; its BatchNorm layers have statistics of their own, so that its logits differ from image to image."""
        name, size = self.scale.teacher, self.scale.pixels
        torch.manual_seed(1)
        network = build(name, CLASSES, size).to(self.device).train()
        with torch.no_grad():
            for _ in range(3):
                network(torch.randn(32, 3, size, size, device=self.device))
        how = {"id": name, "architecture": name, "class_names": [known.name for known in KNOWN]}
        return Classifier(network, classes=KNOWN, image_size=size, device=self.device, **how)

    @cached_property
    def images(self) -> torch.Tensor:
        """100 smooth images of the classes 0, 0, ..., 9: uint8 (100, 3, S, S), on the CPU."""
        coarse = torch.rand(100, 3, 6, 6, generator=torch.Generator().manual_seed(2))
        large = torch.nn.functional.interpolate(coarse, (self.scale.pixels,) * 2, mode="bilinear")
        return (255 * large).round().to(torch.uint8)

    @property
    def labels(self) -> torch.Tensor:
        """Their classes."""
        return torch.arange(CLASSES).repeat_interleave(10)

    def settings(self) -> Settings:
        """How a student is trained, without a look at test images."""
        scale = self.scale
        task = Task(100, CLASSES, scale.pixels, True, NORMALIZATIONS["imagenet"], scale.student)
        return dataclasses.replace(protocol(scale.protocol).settings(task), epochs=scale.epochs, looks=())

    def seeds(self, stage: str, count: int) -> list[int]:
        """Return the seed of each of some images."""
        return [draw_seed(0, stage, index) for index in range(count)]

    def fresh_run(self) -> Run:
        """Return a run that has not finished anything yet."""
        return Run(Path(tempfile.mkdtemp(dir=self.folder.name)), {})

    def latents(self, count: int) -> torch.Tensor:
        """Return where a refinement starts, (count, channels, h, w)."""
        start = torch.randn(count, *self.generator.latent_shape, generator=torch.Generator().manual_seed(3))
        return start.to(self.device)

    @cached_property
    def real(self) -> torch.Tensor:
        """The 80 images of a fine-tuning, in [0, 1], (80, 3, S, S); `tuned_labels` are their classes."""
        size = self.generator.image_size
        return torch.rand(80, 3, size, size, generator=torch.Generator().manual_seed(4)).to(self.device)

    @property
    def tuned_labels(self) -> torch.Tensor:
        """Classes of `real`, (80,)."""
        return torch.arange(80) % CLASSES

    def soft_targets(self, count: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return PSR's soft labels (count, C) and reliabilities (count,)."""
        targets = torch.rand(count, CLASSES, generator=torch.Generator().manual_seed(5)).softmax(1)
        return targets, targets[torch.arange(count), self.ids(count)]

    @staticmethod
    def ids(count: int) -> list[int]:
        """Return a class for each of some images."""
        return [index % CLASSES for index in range(count)]
