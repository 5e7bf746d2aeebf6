"""Looks into the space of features: the neighbours of some images, and a map of some classes."""

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from manyviews.probes.features import Features
from manyviews.probes.knn import nearest
from manyviews.probes.protocol import Labels, tasks

QUERIES = 2  # of the training classes, and as many of the unseen ones
NEIGHBOURS = 5
MAP_CLASSES = 6  # of the training classes, and as many of the unseen ones
PERPLEXITY = 30  # about how many neighbours of a point t-SNE keeps close


def spaced_classes(labels: Tensor, n: int) -> list[int]:
    """n classes at even spaces, the first and the last among them; all, where there are no more."""
    n_classes = int(labels.max()) + 1
    return np.unique(np.linspace(0, n_classes - 1, min(n, n_classes)).round().astype(int)).tolist()


def example_neighbours(features: Features, labels: Labels, ood_fit_fraction: float) -> pd.DataFrame:
    """The nearest images of some queries: the first scored image of classes at even spaces, not chosen ones.

    Returns:
        Columns: split ("id" or "ood"), query (index of the image in val, or in ood), rank from 1, neighbour
        (index in train, or in ood), right (whether its class is the query's). A query of unseen classes has
        its neighbours among the OOD images that the probes are fitted on.
    """
    rows = []
    for split, task in tasks(features, labels, ood_fit_fraction).items():
        there = task.test_labels.unique()
        classes = there[spaced_classes(torch.arange(len(there)), QUERIES)]
        queries = [int((task.test_labels == label).nonzero()[0]) for label in classes]
        _, indices = nearest(task.fit, task.test[queries], min(NEIGHBOURS, len(task.fit)))
        for query, of_query in zip(queries, indices.tolist(), strict=True):
            for rank, index in enumerate(of_query, start=1):
                row = {"split": split, "query": int(task.test_rows[query]), "rank": rank}
                right = bool(task.fit_labels[index] == task.test_labels[query])
                rows.append(row | {"neighbour": int(task.fit_rows[index]), "right": right})
    return pd.DataFrame(rows)


def feature_map(features: Features, labels: Labels) -> pd.DataFrame:
    """t-SNE map of validation images and images of unseen classes, a few classes of each, in one plane.

    Returns:
        Columns: split ("id" or "ood"), image (its index in the split), label, x, y (no unit). Features that
        are all alike lie in one point: t-SNE would end the process.
    Source: van der Maaten and Hinton 2008, Visualizing Data using t-SNE, JMLR 9.
    """
    from sklearn.manifold import TSNE

    tables, chosen = [], []
    for split, name in (("id", "val"), ("ood", "ood")):
        of_split = labels[name].cpu()
        rows = torch.isin(of_split, torch.tensor(spaced_classes(of_split, MAP_CLASSES))).nonzero().squeeze(1)
        tables.append(pd.DataFrame({"split": split, "image": rows, "label": of_split[rows]}))
        chosen.append(features[name][rows].cpu())
    points = torch.cat(chosen).float().numpy()
    places = np.zeros((len(points), 2))
    if len(np.unique(points, axis=0)) > 1:
        perplexity = min(PERPLEXITY, (len(points) - 1) / 3)
        places = TSNE(perplexity=perplexity, init="pca", random_state=0).fit_transform(points)
    return pd.concat(tables, ignore_index=True).assign(x=places[:, 0].round(3), y=places[:, 1].round(3))
