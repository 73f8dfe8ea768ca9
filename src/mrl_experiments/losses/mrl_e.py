"""MRL-E: all nested sizes share one classifier (Kusupati et al., 2022, Section 3, weight tying)."""

from mrl_experiments.losses.linear_heads import TiedHead
from mrl_experiments.losses.mrl import MRL


class MRLE(MRL):
    """Efficient MRL: size m is classified by the first m columns of one `Linear(D, C)` and its bias."""

    heads_type = TiedHead
