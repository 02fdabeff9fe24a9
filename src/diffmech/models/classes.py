"""Classes as the condition of a network: a label per image, which an embedding turns into what its blocks are added.

A class is told as values of attributes are, one-hot: 1 of that class, and no class where none is 1. Networks that were
trained with dropped labels have an embedding for no class behind those of the classes (Ho & Salimans 2022); for others
no class is the mean of all classes' embeddings. Ours.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def class_labels(values: Tensor) -> Tensor:
    """Return the number of the class of each image, `(sample,)`, of one-hot `values` `(sample, class)`.

    That of no class is the number of classes. Raises ValueError for an image of two classes.
    """
    known = values.nan_to_num() > 0.5
    if (known.sum(1) > 1).any():
        raise ValueError("an image is told to be of two classes; give each at most one value above 0.5")
    return torch.where(known.any(1), known.int().argmax(1), values.shape[1])


class MeanForNone(nn.Embedding):
    """The embeddings of all classes, and for the number behind theirs their mean."""

    def forward(self, labels: Tensor) -> Tensor:
        """Return the embedding of each label, `(sample, channel)`."""
        return F.embedding(labels, torch.cat([self.weight, self.weight.mean(0, keepdim=True)]))


def told_none(module: nn.Module, classes: int) -> None:
    """Give a network whose `class_embedding` knows `classes` classes and nothing else a mean for no class."""
    table: nn.Embedding = module.class_embedding  # type: ignore[assignment]
    if table.num_embeddings == classes:
        module.class_embedding = MeanForNone(classes, table.embedding_dim, _weight=table.weight.detach())
