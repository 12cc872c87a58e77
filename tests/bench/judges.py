"""What a selector passes that may take an image for any class it knows, or for one of the set's alone. Run by hand.

    python tests/bench/judges.py --source path/to/cifar10 --classes cat,deer,dog,horse

A ConvNet is fitted to some images of all classes of the source; a few classes that look alike are the set. Candidates are
test images that no generator drew: those of their class, the same with noise, and those of classes beyond the set, which
are given its classes in turn. Printed: how many pass CaO2's filter over the set's classes and
over all, and how DGS's order of difficulty differs between the two, within each class: Spearman's correlation, and the
share of pairs that change places.
"""

import argparse
import dataclasses
import math

import numpy as np
import torch
from scipy.stats import kendalltau, spearmanr

from distill_hub.classifiers import IMAGENET_MEAN, IMAGENET_STD, Classifier
from distill_hub.data.sources import Source, load_source
from distill_hub.methods.judging import VERDICTS, judge_images
from distill_hub.running.console import show
from distill_hub.teachers.open import fit_settings
from distill_hub.training.train import TrainingSet, train_students


def fitted(source: Source, args: argparse.Namespace) -> torch.nn.Module:
    """Fit a network to the first images of every class, as a recipe fits a teacher."""
    rows = np.concatenate([own[: args.images] for own in source.train.by_class])
    few = dataclasses.replace(source, train=source.train.select(rows, "train"))
    settings = fit_settings(few, args.network, args.size)
    epochs = math.ceil(args.steps / math.ceil(len(rows) / settings.batch_size))
    settings = dataclasses.replace(settings, epochs=epochs, mean=IMAGENET_MEAN, std=IMAGENET_STD)
    data = TrainingSet(few.train.pixels(None, args.size), torch.from_numpy(few.train.labels))
    (student,) = train_students(args.network, [data], None, len(few.classes), settings, [args.seed], title="fit")
    return student.model


def main() -> None:
    """Fit, judge and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--source", required=True)
    parser.add_argument("--classes", required=True, help="names of the set's classes, comma-separated")
    parser.add_argument("--network", default="convnet-3-w64")
    parser.add_argument("--images", type=int, default=500, help="per class, to fit the network to")
    parser.add_argument("--steps", type=int, default=500)
    parser.add_argument("--candidates", type=int, default=100, help="test images per class")
    parser.add_argument("--noise", type=float, default=0.1, help="standard deviation, of values in [0, 1]")
    parser.add_argument("--size", type=int, default=32)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    source, wanted = load_source(args.source), args.classes.split(",")
    places = [source.class_names.index(name) for name in wanted]
    facts = {"id": args.network, "architecture": args.network, "class_names": source.class_names, "image_size": args.size}
    network = fitted(source, args)
    whole = Classifier(network, classes=source.classes, **facts)
    judge = Classifier(network, classes=[source.classes[place] for place in places], **facts)

    test = [own[: args.candidates] for own in source.test.by_class]
    images = source.test.pixels(np.concatenate(test), args.size).float() / 255
    true = torch.cat([torch.full((len(own),), label) for label, own in enumerate(test)])
    right = (whole.predict((images * 255).round().byte()) == true).float().mean()
    show(f"{args.network} knows {len(source.classes)} classes; it is right on {right:.1%} of {len(true):,} test images")

    inside = torch.isin(true, torch.tensor(places))
    own, labels = images[inside], torch.tensor([places.index(int(label)) for label in true[inside]])
    noise = args.noise * torch.randn(own.shape, generator=torch.Generator().manual_seed(args.seed))
    foreign = images[~inside]
    kinds = {
        "of their class": (own, labels),
        "of their class, with noise": ((own + noise).clamp(0, 1), labels),
        "of a class beyond the set": (foreign, torch.arange(len(foreign)) % len(places)),
    }
    kinds["all of these"] = tuple(map(torch.cat, zip(*kinds.values(), strict=True)))
    show("| candidates | number | pass, over the set | pass, over all | Spearman | pairs that change places |")
    show("|---|---|---|---|---|---|")
    for kind, (shown, given) in kinds.items():
        with torch.inference_mode():
            by_set, by_all = (judge_images(judge, shown, given.tolist(), over) for over in ("set", "all"))
        assert list(by_set) == VERDICTS
        rows = [given == label for label in given.unique()]
        hard = [(by_set["difficulty"][own].numpy(), by_all["difficulty"][own].numpy()) for own in rows]
        rank = np.mean([spearmanr(*pair).statistic for pair in hard])
        turned = np.mean([(1 - kendalltau(*pair).statistic) / 2 for pair in hard])
        passes = " | ".join(f"{int(found['correct'].sum()):,}" for found in (by_set, by_all))
        show(f"| {kind} | {len(given):,} | {passes} | {rank:.2f} | {turned:.1%} |")


if __name__ == "__main__":
    main()
