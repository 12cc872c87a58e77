"""A classifier trained on a whole source: what methods that match BatchNorm statistics, or any others, take as a teacher.

SGD with momentum on random crops and flips, the usual recipe of ResNets (He et al., 2016) with a cosine in place of
steps. Every step's batch is drawn from seed and epoch alone, and each process takes its share of it: P processes do what
one does, up to the rounding of sums, unless the network has BatchNorm or dropout. BatchNorm normalises every process's
share by itself, and the running statistics kept are those of the main process.
"""

import dataclasses
import functools
import math
import shlex
import shutil
from pathlib import Path

import psutil
import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn

from distill_hub.artifact.base import now
from distill_hub.artifact.classifier import ClassifierRecord
from distill_hub.artifact.describe import source_record
from distill_hub.artifact.manifest import EnvironmentRecord
from distill_hub.augmentation.augment import augment, batch_of, draw, usual_augmentation
from distill_hub.classifiers import Classifier, find_head, save_network
from distill_hub.config import InputError, resolved, words
from distill_hub.coresets.dynamics import Recorder, write_dynamics
from distill_hub.coresets.names import DYNAMICS
from distill_hub.data.known import NORMALIZATIONS
from distill_hub.data.size import with_size
from distill_hub.data.sources import Source
from distill_hub.disk.files import STATE, atomic_write, folder_name
from distill_hub.feed import ahead, placed, taken
from distill_hub.networks.build import build, check_student
from distill_hub.networks.names import student_name
from distill_hub.options.fit_classifier import FitClassifierConfig
from distill_hub.options.shared import SourceOptions
from distill_hub.publishing.classifier import classifier_card
from distill_hub.publishing.trained import classifier_name
from distill_hub.running.checkpoint import Checkpoint
from distill_hub.running.console import progress
from distill_hub.running.cost import NOTHING, Cost, Meter, added, write_cost
from distill_hub.running.dry_run import open_run
from distill_hub.running.mapped import make_mapped
from distill_hub.running.run import Run
from distill_hub.running.seeds import cpu_generator, draw_seed
from distill_hub.teachers.pretrained import Pretrained, open_pretrained
from distill_hub.training.settings import Task
from distill_hub.training.subject import HeldOut

WINDOW = 20  # steps between two looks at the loss: each waits for the device
DECODED_AT_A_TIME = 1024
STAGES = ("decode", "fit")  # what a killed run goes on from


def classifier_task(config: FitClassifierConfig, source: Source, start: Pretrained | None = None) -> Task:
    """Resolve what is trained on what, before any work.

    Args:
        config: The recipe's settings.
        source: The real dataset.
        start: What training starts from; None: from scratch.

    Raises:
        InputError: When the network is unknown, does not run on such images or is no classifier that a recipe can use.
    """
    size = config.image_size or source.image_size
    network = f"{student_name('auto', size)}-bn" if config.network == "auto" else config.network
    normalization = NORMALIZATIONS[source.normalization]
    if start:
        network, normalization = start.network, start.normalization
    check_student(network, len(source.classes), size, field="network")
    with torch.device("meta"):
        find_head(build(network, len(source.classes), size), len(source.classes), network, field="network")
    return Task(len(source.train), len(source.classes), size, source.mirrored, normalization, network)


def rate(step: int, steps: int, per_epoch: int) -> float:
    """Return the share of the learning rate at a step, from 0: linear for 5 epochs or 5 % of all steps, then cosine to 0."""
    warm_up = min(5 * per_epoch, steps // 20)
    if step < warm_up:
        return (step + 1) / (warm_up + 1)
    return (1 + math.cos(math.pi * (step - warm_up) / (steps - warm_up))) / 2


def check_disk(images: int, size: int, folder: Path) -> None:
    """Refuse images that do not fit on the disk once they are decoded.

    Raises:
        InputError: Naming needed and free space.
    """
    needed, free = images * 3 * size**2, shutil.disk_usage(folder).free
    if needed > free:
        valid = f"{images} decoded images need {needed / 1e9:,.2f} GB in {folder}, {free / 1e9:,.2f} GB are free"
        raise InputError("image_size", size, f"{valid}; pass a smaller one, or another --output_dir")


def check_memory(images: int, size: int, accelerator: Accelerator) -> None:
    """Refuse images that do not fit into memory, where each process keeps all of them.

    Raises:
        InputError: Naming needed and free memory.
    """
    needed = images * 3 * size**2
    if accelerator.device.type == "cuda":
        free, where = torch.cuda.mem_get_info(accelerator.device)[0], "on the device"
    else:
        needed *= accelerator.num_processes
        free, where = psutil.virtual_memory().available, f"for {accelerator.num_processes} processes"
    if needed > free:
        valid = f"{images} images need {needed / 1e9:,.2f} GB {where}, {free / 1e9:,.2f} GB are free; pass a smaller one"
        raise InputError("image_size", size, valid)


class Fit:
    """The training of one classifier.

    A killed run goes on from its last checkpoint to the same weights, bit for bit with the same number of processes.

    Args:
        run: Its processes share each batch.
        source: The real dataset.
        task: See `classifier_task`.
        config: The recipe's settings.
        start: What training starts from; None: from scratch.

    Raises:
        InputError: When a batch cannot be shared evenly or exceeds the source, the share of a process is too small for the
            network's BatchNorm, or the decoded images do not fit on the disk.
    """

    def __init__(self, run: Run, source: Source, task: Task, config: FitClassifierConfig, start: Pretrained | None = None):
        accelerator, size = run.accelerator, config.batch_size
        self.run, self.source, self.task, self.config, self.start = run, source, task, config, start
        self.learning_rate = config.learning_rate or (0.01 if start else 0.1)
        if size % accelerator.num_processes:
            valid = f"{accelerator.num_processes} processes share it: valid is a multiple of {accelerator.num_processes}"
            raise InputError("batch_size", size, valid)
        if size > task.images:
            raise InputError("batch_size", size, f"the source has {task.images} training images")
        self.share = size // accelerator.num_processes
        check_student(task.student, task.classes, task.image_size, self.share, field="network")
        if not (run.output_dir / STATE / "decode").exists():
            check_disk(task.images, task.image_size, run.output_dir)
        self.rules = usual_augmentation(task.image_size, task.mirrored)
        self.per_epoch = task.images // size  # the rest of an epoch, other images each time, is left out
        self.steps = config.epochs * self.per_epoch
        self.epoch, self.drawn, self.cost = 0, -1, NOTHING  # epochs done, the one whose batches are drawn, cost so far
        self.recorder = Recorder(config.epochs, task.images, run.device) if config.dynamics else None
        self.checkpoint = Checkpoint(run.state("fit") / "checkpoint.safetensors")  # its steps are epochs
        torch.manual_seed(draw_seed(config.seed, "classifier weights"))
        make = start.with_new_head if start else functools.partial(build, task.student)
        self.network = make(task.classes, task.image_size).train()
        has_batch_norm = any(isinstance(module, nn.BatchNorm2d) for module in self.network.modules())
        # Instance norm would copy back and forth.
        self.layout = torch.channels_last if has_batch_norm else torch.contiguous_format
        self.network.to(run.device, memory_format=self.layout)
        optimizer = torch.optim.SGD(
            self.network.parameters(), self.learning_rate, momentum=0.9, weight_decay=config.weight_decay
        )
        self.model, self.optimizer = accelerator.prepare(self.network, optimizer)

    def load_images(self) -> None:
        """Decode the training split, spread over processes and once for all attempts; put it on the device if it fits."""
        size, train = self.task.image_size, self.source.train
        decoded = make_mapped(
            self.run, "decode", (self.task.images, 3, size, size), lambda rows: train.pixels(rows, size),
            chunk_size=DECODED_AT_A_TIME, made_from={"source": self.source.fingerprint, "image_size": size},
        )  # fmt: skip
        self.images = placed(decoded, self.run.device)
        self.labels = torch.from_numpy(train.labels).to(self.images.device)

    def batch(self, step: int) -> tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]:
        """Return this process's share of a step's batch: images (b, 3, S, S), their draws, and labels (b,)."""
        epoch, place = divmod(step, self.per_epoch)
        size, batch_size, process = self.task.image_size, self.config.batch_size, self.run.accelerator.process_index
        if self.drawn != epoch:
            generator = cpu_generator(draw_seed(self.config.seed, "classifier epoch", epoch))
            draws = draw(self.rules, self.task.images, batch_size, size, generator)
            self.draws = {name: rows.to(self.images.device) for name, rows in draws.items()}
            self.drawn = epoch
        start = place * batch_size + process * self.share
        part, device = batch_of(self.draws, start, start + self.share), self.run.device
        return taken(self.images, part["order"], device), part, taken(self.labels, part["order"], device)

    def update(self, step: int, batch: tuple[torch.Tensor, dict[str, torch.Tensor], torch.Tensor]) -> torch.Tensor:
        """Take one optimiser step on a `batch`; return the mean loss of this process's share."""
        epoch, place = divmod(step, self.per_epoch)
        if place == 0:
            process = self.run.accelerator.process_index
            torch.manual_seed(draw_seed(self.config.seed, "classifier dropout", epoch, process))
        for group in self.optimizer.param_groups:
            group["lr"] = self.learning_rate * rate(step, self.steps, self.per_epoch)
        pixels, draws, labels = batch
        images = augment(pixels, draws, *self.task.normalization)
        logits = self.model(images.contiguous(memory_format=self.layout))
        if self.recorder:
            self.recorder.note(draws["order"], logits, labels)
        loss = F.cross_entropy(logits, labels)  # averaged over processes with the gradients
        self.optimizer.zero_grad(set_to_none=True)
        self.run.accelerator.backward(loss)
        self.optimizer.step()
        return loss.detach()

    def train(self) -> Cost:
        """Take all steps, from the last checkpoint on.

        Returns:
            What it took all processes, interrupted attempts included as far as their last checkpoint.

        Raises:
            InputError: When the loss is not finite any more.
        """
        self.resume()
        meter, before, pending, done = Meter(self.run.device), self.cost, [], self.epoch * self.per_epoch
        todo = range(done, done + self.run.part(self.steps - done))
        steps = progress(todo, "fit", unit="step", done=done, disable=not self.run.is_main)
        for step, batch in zip(steps, ahead(self.batch, todo, by_thread=self.images.device != self.run.device), strict=True):
            pending.append(self.update(step, batch))
            is_end = (step + 1) % self.per_epoch == 0
            if len(pending) == WINDOW or is_end:
                losses = self.run.accelerator.reduce(torch.stack(pending), "mean")
                self._check_finite(losses, step + 1 - len(pending), is_end)
                loss = losses.mean().item()
                steps.set_postfix(loss=f"{loss:.4f}", refresh=False)  # with the bar's next turn
                self.run.trackers.log("fit", step + 1, self.steps, {"loss": loss})
                pending = []
            if is_end:
                if self.recorder:
                    self.recorder.end_epoch(self.epoch, self.run.accelerator.reduce)
                self.epoch += 1
                due = self.epoch % self.config.checkpoint_epochs == 0 or self.epoch == self.config.epochs
                if due:
                    self.cost = added(before, self.run.summed(meter.read()))
                    if self.run.is_main:
                        self.save()
        return self.cost

    def _check_finite(self, losses: torch.Tensor, first: int, is_end: bool) -> None:
        """Stop before what is broken gets into a checkpoint."""
        wrong = (~losses.isfinite()).nonzero()
        if len(wrong):
            what, step, value = "loss", first + int(wrong[0]), losses[wrong[0]].item()
        elif is_end and not all(parameter.isfinite().all() for parameter in self.network.parameters()):
            what, step, value = "trained weights", first + len(losses) - 1, math.nan
        else:
            return
        kept = self.checkpoint.kept("epoch")
        advice = "a smaller --learning_rate, with --overwrite or another --output_dir, may help"
        raise InputError(what, value, f"it became so in step {step + 1} of {self.steps}; {kept}; {advice}")

    def save(self) -> None:
        """Write the checkpoint in place of the last one, complete or not at all."""
        facts = {}
        if (scaler := self.run.accelerator.scaler) is not None:  # fp16
            state = scaler.state_dict()
            facts = {"scale": repr(state["scale"]), "growth_tracker": str(state["_growth_tracker"])}
        tensors = {f"network.{name}": tensor for name, tensor in self.network.state_dict().items()}
        for name, parameter in self.network.named_parameters():
            if (momentum := self.optimizer.state[parameter].get("momentum_buffer")) is not None:
                tensors[f"momentum.{name}"] = momentum
        if self.recorder:
            tensors |= {f"dynamics.{name}": rows[: self.epoch] for name, rows in self.recorder.state.items()}
        self.checkpoint.save(tensors, self.epoch, self.cost, **facts)

    def resume(self) -> None:
        """Go to where the checkpoint was taken, if there is one."""
        if not (facts := self.checkpoint.facts):
            return
        tensors = self.checkpoint.tensors()
        self.network.load_state_dict({name: tensors[f"network.{name}"] for name in self.network.state_dict()})
        for name, parameter in self.network.named_parameters():
            if (kept := tensors.get(f"momentum.{name}")) is not None:
                momentum = torch.empty_like(parameter, requires_grad=False).copy_(kept)
                self.optimizer.state[parameter]["momentum_buffer"] = momentum
        for name, rows in self.recorder.state.items() if self.recorder else ():
            rows[: len(tensors[f"dynamics.{name}"])] = tensors[f"dynamics.{name}"]
        if (scaler := self.run.accelerator.scaler) is not None:
            state = {"scale": float(facts["scale"]), "_growth_tracker": int(facts["growth_tracker"])}
            scaler.load_state_dict({**scaler.state_dict(), **state})
        self.epoch, self.cost = self.checkpoint.step, self.checkpoint.cost

    def accuracy(self, test: HeldOut) -> float:
        """Return the fraction of the test images that the network classifies right, in full precision."""
        mean, std = self.task.normalization
        network = self.run.accelerator.unwrap_model(self.model, keep_fp32_wrapper=False)
        classifier = Classifier(
            network, id=self.task.student, architecture=self.task.student, classes=self.source.classes,
            class_names=self.source.class_names, image_size=self.task.image_size, mean=mean, std=std, device=self.run.device,
        )  # fmt: skip
        return (classifier.predict(test.images(self.task.image_size)) == test.labels).double().mean().item()

    def write(self, test: HeldOut, environment: EnvironmentRecord) -> ClassifierRecord:
        """Measure the trained network and save it: `config.json` comes last and says that the folder is complete.

        Args:
            test: The source's test split.
            environment: Of the run.

        Returns:
            What the folder says of it.
        """
        folder, task, (mean, std) = self.run.output_dir, self.task, self.task.normalization
        own = ("epochs", "batch_size", "learning_rate", "weight_decay", "seed")
        said = {**resolved(self.config), "learning_rate": self.learning_rate}
        settings, base = {name: value for name, value in said.items() if name in own}, self.start and self.start.record
        fixed = {"optimizer": "SGD, momentum 0.9", "schedule": "linear warm-up, then cosine to 0, step by step"}
        crops = {"pad": self.rules.pad, "crop_scale": self.rules.crop_scale, "flip": self.rules.flip}
        record = ClassifierRecord(
            network=task.student,
            source=source_record(self.source),
            classes=self.source.class_names,
            image_size=task.image_size,
            test_accuracy=self.accuracy(test),
            settings={**settings, **fixed, **crops},
            steps=self.steps,
            seconds=round(self.cost["seconds"], 1),
            environment=environment,
            created=now(),
            pretrained=base,
        )
        atomic_write(folder / "README.md", classifier_card(record, location=folder_name(folder)).encode())
        decoded = next(stage for stage in self.run.stages if stage["name"] == "decode")
        write_cost(folder, added(self.cost, decoded), self.run.device)
        if self.recorder:
            state, seed = self.recorder.state, self.config.seed
            write_dynamics(folder / DYNAMICS, state, self.source, task.student, task.image_size, seed)
        facts = record.model_dump(mode="json")
        save_network(
            self.network, folder, task.student, self.source.class_names, task.image_size, mean=mean, std=std, record=facts,
            license=base and base.license,
        )  # fmt: skip
        for stage in STAGES:
            shutil.rmtree(folder / STATE / stage, ignore_errors=True)
        return record


def fit_classifier(source: Source, config: FitClassifierConfig) -> Run:
    """Train a classifier, measure it on the test split after its last epoch, and save it in its folder.

    A folder that is finished is left as it is.

    Args:
        source: The real dataset.
        config: The recipe's settings.

    Returns:
        The finished run.

    Raises:
        InputError: See `classifier_task`, `Run`, `Fit` and `Fit.train`; or when the test split holds no image of a class.
    """
    start = open_pretrained(config.pretrained, config.pretrained_revision) if config.pretrained else None
    if start and not config.image_size:
        config = dataclasses.replace(config, image_size=start.image_size)
    config = with_size(config, source, "image_size")
    task = classifier_task(config, source, start)
    folder = config.output_dir or Path("outputs", classifier_name(source.name, task.student))
    settings = {**resolved(config), "source_fingerprint": source.fingerprint}  # decoded images and checkpoint depend on it
    settings["pretrained_sha256"] = start and start.record.sha256
    run = open_run(folder, settings, overwrite=config.overwrite, dry_run=config.dry_run, log_with=config.log_with)
    if (run.output_dir / "config.json").is_file():
        run.say(f"The classifier in {folder} is finished already; --overwrite trains it anew")
        return run
    test = HeldOut(source)
    fit = Fit(run, source, task, config, start)
    fit.load_images()
    run.together("fit", fit.steps, fit.train, lower="a smaller --batch_size")
    if run.is_dry:
        return run
    environment = EnvironmentRecord(**run.environment())
    test.prepare(run, task.image_size)

    def write() -> None:
        record = fit.write(test, environment)
        speed = fit.steps * config.batch_size / fit.cost["seconds"]
        run.say(f"{task.student}: {record.test_accuracy:.2%} of {len(test.labels)} test images, {speed:,.0f} images/s")

    run.on_main("test and save", write)
    run.say(run.summary())
    command = shlex.join(["distill-hub", "make", "rded", *words(config, SourceOptions), "--teacher", str(folder)])
    publish = shlex.join(["distill-hub", "push", str(folder)])
    run.say(f"The classifier is in {folder}\nNext: `{command}` makes a set with it as teacher, `{publish}` publishes it")
    return run
