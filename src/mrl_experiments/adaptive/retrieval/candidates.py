"""Neighbours of queries, as every search returns them."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class Candidates(NamedTuple):
    """Neighbours of each query: similarities (Q, K), and positions or ids (Q, K); -1 where there is none."""

    similarities: NDArray[np.float32]
    ids: NDArray[np.int64]
