"""Training dynamics of a source: those that classifiers brought along, or of networks that are trained for it, once.

These are trained as `teachers.fit` trains a classifier, each by one process, so that they say the same for any number of
processes.
"""

import itertools
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from distill_hub.augmentation.augment import augment, batch_of, draw, usual_augmentation
from distill_hub.coresets.dynamics import Dynamics, Recorder, dynamics_of, read_dynamics, write_dynamics
from distill_hub.coresets.names import DYNAMICS
from distill_hub.data.known import FITTED, NORMALIZATIONS
from distill_hub.data.sources import Source, fit_folder
from distill_hub.feed import placed, taken
from distill_hub.networks.build import build, check_student
from distill_hub.networks.names import student_name
from distill_hub.running.checkpoint import steps
from distill_hub.running.mapped import map_rows
from distill_hub.running.run import Run
from distill_hub.running.seeds import cpu_generator, draw_seed
from distill_hub.running.stages import Stage
from distill_hub.teachers.fit import rate

BATCH_SIZE, LEARNING_RATE, WEIGHT_DECAY = 128, 0.1, 5e-4  # the defaults of recipes/fit_classifier.py


def open_dynamics(
    run: Run,
    source: Source,
    image_size: int,
    *,
    dynamics: str = "auto",
    dynamics_revision: str | None = None,
    dynamics_network: str = "auto",
    dynamics_epochs: int = 20,
    dynamics_count: int = 1,
    seed: int = 0,
) -> Dynamics:
    """Open the training dynamics of a source. Call it on every process.

    Args:
        run: Its processes train the networks that are missing in the user's cache, each one at a time: the stage 'dynamics'.
            One that was killed goes on from its last checkpoint.
        source: The real images.
        image_size: Side in pixels at which a network that is trained sees them.
        dynamics: Names for `read_dynamics`; 'auto': those of networks that are trained.
        dynamics_revision: See `read_dynamics`.
        dynamics_network: Name for `networks.build`; 'auto': the ConvNet with BatchNorm that suits the image size.
        dynamics_epochs: Epochs of the training.
        dynamics_count: How many networks.
        seed: Of the networks.

    Raises:
        InputError: See `read_dynamics`; or for a network that cannot be trained on such images, or whose weights are not
            finite any more.
        HubError: When the Hub fails.
    """
    if dynamics != "auto":
        with run.accelerator.main_process_first():
            return read_dynamics(source, dynamics, dynamics_revision)
    network = f"{student_name('auto', image_size)}-bn" if dynamics_network == "auto" else dynamics_network
    check_student(network, len(source.classes), image_size, field="dynamics_network")
    key = network, image_size, source.mirrored, source.normalization, dynamics_epochs, dynamics_count, seed
    first = run.cached(fit_folder(source, "dynamics", *key) / f"0-{DYNAMICS}")
    files = [first.with_name(f"{index}-{DYNAMICS}") for index in range(dynamics_count)]
    if not run.agree(first.exists()):
        seeds = [draw_seed(seed, "dynamics", index) for index in range(dynamics_count)]
        recorded = _record(run, source, network, image_size, dynamics_epochs, seeds)

        def keep() -> None:
            run.leave_stage(first.parent)
            for index in reversed(range(dynamics_count)):
                found = {name: rows[0] for name, rows in recorded.rows(index, index + 1).items()}
                write_dynamics(files[index], found, source, network, image_size, seeds[index])
            run.drop("dynamics")

        run.on_main("keep dynamics", keep, makes=first)
    else:
        run.count_stage(first.parent)
    return dynamics_of(source, [(FITTED + source.name, file) for file in files])


def _record(run: Run, source: Source, network: str, size: int, epochs: int, seeds: Sequence[int]) -> Stage:
    """Train networks, spread over processes, and take down what each says: `margin` and `error`, see `Recorder`."""
    train, normalization = source.train, NORMALIZATIONS[source.normalization]
    made_from = {
        "source": [source.fingerprint, source.class_names, source.mirrored, source.normalization],
        "training": [network, size, epochs],
    }
    state_folder = run.state("dynamics steps", made_from)
    images = map_rows(
        run, "dynamics, images", lambda a, b: train.pixels(range(a, b), size), len(train),
        made_from={"source": source.fingerprint, "size": size},
    )  # fmt: skip
    per_epoch, rules = -(-len(train) // BATCH_SIZE), usual_augmentation(size, source.mirrored)
    bounds = [place * len(train) // per_epoch for place in range(per_epoch + 1)]  # every epoch shows all images

    def of_network(chunk: Sequence[int]) -> dict[str, torch.Tensor]:
        (seed,), labels = chunk, torch.from_numpy(train.labels).to(run.device)
        pixels = placed(images, run.device)
        torch.manual_seed(draw_seed(seed, "classifier weights"))
        model = build(network, len(source.classes), size).train()
        has_batch_norm = any(isinstance(module, nn.BatchNorm2d) for module in model.modules())
        layout = torch.channels_last if has_batch_norm else torch.contiguous_format  # see `teachers.fit`
        model.to(run.device, memory_format=layout)
        optimizer = torch.optim.SGD(model.parameters(), LEARNING_RATE, momentum=0.9, weight_decay=WEIGHT_DECAY)
        for weight in model.parameters():
            optimizer.state[weight]["momentum_buffer"] = torch.zeros_like(weight)
        momentum = {name: optimizer.state[weight]["momentum_buffer"] for name, weight in model.named_parameters()}
        recorder = Recorder(epochs, len(train), run.device)
        state = {**{f"network.{name}": tensor for name, tensor in model.state_dict().items()},
                 **{f"momentum.{name}": tensor for name, tensor in momentum.items()}, **recorder.state}  # fmt: skip
        title = "dynamics" if run.is_main else ""
        for epoch in steps(run, state_folder / f"{seed}.safetensors", epochs, state, title=title, unit="epoch"):
            draws = draw(rules, len(train), BATCH_SIZE, size, cpu_generator(draw_seed(seed, "classifier epoch", epoch)))
            torch.manual_seed(draw_seed(seed, "classifier dropout", epoch))
            for place, (start, stop) in enumerate(itertools.pairwise(bounds)):
                part = {name: rows.to(run.device) for name, rows in batch_of(draws, start, stop).items()}
                for group in optimizer.param_groups:
                    group["lr"] = LEARNING_RATE * rate(epoch * per_epoch + place, epochs * per_epoch, per_epoch)
                own = labels[part["order"]]
                shown = taken(pixels, part["order"].to(pixels.device), run.device)
                logits = model(augment(shown, part, *normalization).contiguous(memory_format=layout))
                recorder.note(part["order"], logits, own)
                optimizer.zero_grad(set_to_none=True)
                F.cross_entropy(logits, own).backward()
                optimizer.step()
            recorder.end_epoch(epoch)
        if run.is_dry:  # the few epochs that it takes do not show all images
            recorder.state["error"].abs_()
        return {name: tensor[None] for name, tensor in recorder.state.items()}

    return run.map("dynamics", seeds, of_network, chunk_size=1, made_from=made_from, whole=True)
