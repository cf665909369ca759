"""Attributes whose options are not equally common: weights in training, accuracy in judgement."""

from collections.abc import Mapping

import torch
from torch import Tensor

from demo.portraits.attributes import RATES
from demo.portraits.sampling import PARAMETER_SLICES


def attribute_labels(parameters: Tensor) -> dict[str, Tensor]:
    """Return the index [N] of each attribute's option, from parameter vectors [N, P]."""
    return {name: parameters[:, PARAMETER_SLICES[name]].argmax(dim=1) for name in RATES}


def option_weights(labels: Tensor, num_options: int) -> Tensor:
    """Weigh options [num_options] so that each counts the same in all of `labels` [N]."""
    counts = torch.bincount(labels, minlength=num_options)
    return len(labels) / (num_options * counts.clamp_min(1))


def balanced_accuracy(predicted: Tensor, labels: Tensor) -> float:
    """Return the mean, over the options that `labels` [N] hold, of the share told right."""
    right = torch.bincount(labels, (predicted == labels).double())
    counts = torch.bincount(labels)
    return float((right / counts)[counts > 0].mean())


def balanced_accuracies(
    predicted: Mapping[str, Tensor], labels: Mapping[str, Tensor]
) -> dict[str, float]:
    """Return the balanced accuracy of each attribute."""
    return {name: balanced_accuracy(predicted[name], labels[name]) for name in labels}
