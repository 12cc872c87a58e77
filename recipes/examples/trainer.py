"""Train a network on the stored views of a distilled set with transformers' Trainer.

python recipes/examples/trainer.py outputs/digits-ipc10-cao2 --epochs 300 --output_dir outputs/student
"""

import argparse

from torch.utils.data import DataLoader
from transformers import AutoModelForImageClassification, ResNetConfig, Trainer, TrainingArguments

from distill_hub import DistilledDataset


class ViewsTrainer(Trainer):
    """A Trainer of the stored batches. On hard and soft labels Trainer itself will do, with the same dataset and loss."""

    def get_train_dataloader(self) -> DataLoader:
        """Return the batches of an epoch; Trainer tells the sampler which epoch it is."""
        dataset = self.train_dataset
        batch_size, sampler = dataset.manifest.views.batch_size, dataset.sampler(self.args.seed)
        return self.accelerator.prepare(DataLoader(dataset, batch_size, sampler=sampler, collate_fn=self.data_collator))


def main(location: str, epochs: int, output_dir: str) -> None:
    """Train a ResNet-18 from scratch on a set, in a folder or on the Hub."""
    dataset = DistilledDataset(location, "views", as_dict=True)
    layout = {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512], "depths": [2, 2, 2, 2]}
    model = AutoModelForImageClassification.from_config(ResNetConfig(**layout, id2label=dict(enumerate(dataset.classes))))
    arguments = TrainingArguments(
        output_dir, num_train_epochs=epochs, learning_rate=0.001, weight_decay=0.01, lr_scheduler_type="cosine",
        logging_strategy="epoch", save_strategy="no", report_to="none",
    )  # fmt: skip
    trainer = ViewsTrainer(model, arguments, train_dataset=dataset, compute_loss_func=dataset.loss)
    trainer.train()
    trainer.save_model()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("location", help="folder, or NAMESPACE/NAME on the Hub")
    parser.add_argument("--epochs", type=int, default=300)
    parser.add_argument("--output_dir", default="outputs/student")
    main(**vars(parser.parse_args()))
