"""MRL-E: all nested sizes share one classifier (Kusupati et al., 2022, Section 3, weight tying)."""

from torch import nn

from mrl_experiments.losses.linear_heads import LinearHeads, TiedHead
from mrl_experiments.losses.method import shared_embedding
from mrl_experiments.losses.mrl import MRL
from mrl_experiments.nesting import NestingSpec


class MRLE(MRL):
    """Efficient MRL: size m is classified by the first m columns of one `Linear(D, C)` and its bias.

    In a text model that matrix is the one of the input embeddings, without a bias (BERT-MRL, Table 7).
    """

    def make_heads(self, backbone: nn.Module, spec: NestingSpec, num_classes: int) -> LinearHeads:
        """Return the classifier."""
        return TiedHead(spec.dims, num_classes, shared_embedding(backbone))
