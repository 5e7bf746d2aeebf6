"""The study's protocol: what is fitted on, what is scored."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from manyviews import data, evaluation
from manyviews.config import EvaluationConfig
from manyviews.data import Split


def test_ood_split_is_the_reports():
    """study: RandomState(42).permutation(N) >= int(0.2 N) selects the images to fit on."""
    for n in (10, 37, 1000, 10_000):
        fit, test = data.ood_split(n, 0.8)
        mask = np.random.RandomState(42).permutation(n) >= int(0.2 * n)
        np.testing.assert_array_equal(fit, np.flatnonzero(mask))
        np.testing.assert_array_equal(test, np.flatnonzero(~mask))


def test_features_do_not_depend_on_the_batch_and_leave_the_model_as_it_was():
    torch.manual_seed(0)
    backbone = nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).train()
    before = {name: value.clone() for name, value in backbone.state_dict().items()}
    images = torch.randint(0, 256, (11, 3, 8, 8), dtype=torch.uint8)
    one, other = (evaluation.extract_features(backbone, images, size) for size in (11, 3))
    np.testing.assert_allclose(one, other, rtol=1e-5)
    assert one.shape == (11, 4)
    assert backbone.training
    assert all(torch.equal(before[name], value) for name, value in backbone.state_dict().items())


def test_probe_scores_id_on_validation_and_ood_on_what_was_not_fitted():
    """A backbone that gives away the class: every accuracy is 1; with OOD labels shuffled, only ID stays."""

    class Tell(nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = nn.Parameter(torch.zeros(1))

        def forward(self, x):
            return nn.functional.one_hot((x[:, 0, 0, 0] * 255).round().long(), 4).float()

    def split(n, labels=None):
        told = np.arange(n) % 4
        images = np.broadcast_to(told[:, None, None, None], (n, 8, 8, 3)).astype(np.uint8)
        return Split(images, told if labels is None else labels)

    shuffled = np.random.default_rng(0).permutation(np.arange(400) % 4)
    for ood, expected in ((split(400), 1.0), (split(400, shuffled), 0.25)):
        dataset = SimpleNamespace(train=split(80), val=split(40), ood=ood)
        images = {name: getattr(dataset, name).as_tensor() for name in ("train", "val", "ood")}
        result = evaluation.probe(Tell(), dataset, images, EvaluationConfig())
        assert result.id_knn_accuracy == result.id_linear_accuracy == 1.0
        assert result.ood_linear_accuracy == pytest.approx(expected, abs=0.15)
        assert result.ood_knn_accuracy == pytest.approx(expected, abs=0.15)
