"""Batches: their order, their random draws, the FFCV files and the loaders that read them."""

import os

# FFCV starts numba's threads as it is imported. Of TBB, and where there is one CPU, they keep a process that has
# forked since from ever ending (https://github.com/numba/numba/issues/10556). So TBB is the second choice there.
if len(os.sched_getaffinity(0)) == 1:
    os.environ.setdefault("NUMBA_THREADING_LAYER_PRIORITY", "omp tbb workqueue")
