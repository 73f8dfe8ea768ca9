"""Methods that look as after training: their classifiers, which start at zero, are drawn."""

from torch import nn


def as_if_trained(method):
    for parameter in method.head.parameters():
        nn.init.normal_(parameter, std=0.2)
    return method
