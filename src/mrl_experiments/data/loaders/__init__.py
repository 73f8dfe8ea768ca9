"""Batches: their order, their random draws, the FFCV files and the loaders that read them."""

import os

# FFCV starts numba's threads as it is imported. If TBB has them and there is one CPU, a process that forks
# afterwards never ends (https://github.com/numba/numba/issues/10556). So OpenMP comes first there.
if len(os.sched_getaffinity(0)) == 1:
    os.environ.setdefault("NUMBA_THREADING_LAYER_PRIORITY", "omp tbb workqueue")
