"""The LightningModule: a method, its optimizer, and metrics per dim."""

import math
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, cast

import pytorch_lightning as pl
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler
from torch.utils._pytree import tree_leaves, tree_map

from mrl_experiments.errors import UserError
from mrl_experiments.losses.method import Inputs, Method, StepOutput
from mrl_experiments.training.batch_augment import BatchAugment
from mrl_experiments.training.metrics import StepSums, TrainMetrics, named
from mrl_experiments.training.optim import Plateau, TrainingLength

if TYPE_CHECKING:
    from timm.scheduler.scheduler import Scheduler as TimmScheduler

# Inputs (B, ...), labels (B, ...) and, of this project's loaders, sample index (B,).
Batch = tuple[Inputs, Tensor, Tensor] | tuple[Inputs, Tensor]
OptimizerFactory = Callable[
    [nn.Module, TrainingLength], tuple[Optimizer, "LRScheduler | TimmScheduler | Plateau | None"]
]


class NestedModule(pl.LightningModule):
    """Train a method and validate it at every nested dim.

    Metrics are named `train/loss@8`: the metric at a dim. Callbacks and schedulers find them under these
    names; `val/loss` without a dim is that of the largest one.

    Args:
        method: What is trained.
        optim: Makes the optimizer and its schedule, which advances every step, from the method and the length
            of the training.
        inputs: The arguments besides the configuration that rebuild the method (for images channels, size,
            num_classes); they travel in the checkpoint.
        augment: What varies the batches of training, after the loader.

    Attributes:
        validation: The last result, {dim: {metric: value}}, from the trained heads on all of `val`, each
            sample counted once.
        validated_step: The step whose weights it is of, -1 where there is none.
    """

    def __init__(
        self,
        method: Method,
        optim: OptimizerFactory,
        inputs: Mapping[str, int] | None = None,
        augment: BatchAugment | None = None,
    ) -> None:
        super().__init__()
        if augment is not None and augment.softens and not method.soft_targets:
            raise UserError(
                "batch_augment= with mixup or cutmix makes mixed labels, which this loss does not take",
                expected="loss=mrl, mrl_e or ff",
                remedy="batch_augment.mixup=0 batch_augment.cutmix=0",
            )
        self.augment = augment
        self.method = method
        self.optim = optim
        self.inputs = inputs or {}
        self.owner: dict[str, Any] | None = None
        self.validation: dict[int, dict[str, float]] = {}
        self.validated_step = -1
        self._steps = 1
        self._train_sums = StepSums(method)
        self._val_sums = torch.zeros(0)
        self._first_bad = torch.tensor(torch.inf)
        self._restored_states: list[tuple[Tensor, Tensor | None]] = []

    def configure_optimizers(self) -> Any:
        """Build the optimizer; its schedule advances every step."""
        optimizer, scheduler = self.optim(self.method, self.length())
        if scheduler is None:
            return optimizer
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def lr_scheduler_step(self, scheduler: Any, metric: Any) -> None:
        """Advance a schedule; timm's count all steps, one that waits for a plateau the validations."""
        if isinstance(scheduler, Plateau):
            if self.validation and self.validated_step == self.global_step - 1:
                scheduler.step(self.validation[self.method.spec.dims[-1]]["top1"])
        elif hasattr(scheduler, "step_update"):
            scheduler.step_update(self.global_step)
        else:
            super().lr_scheduler_step(scheduler, metric)

    def length(self) -> TrainingLength:
        """Return how long the training is, without opening the loaders of this project's data.

        They are opened once a checkpoint has moved their position.
        """
        trainer, data = self.trainer, self._data()
        limit, accumulated = trainer.limit_train_batches, trainer.accumulate_grad_batches
        if hasattr(data, "batches_per_epoch"):
            batches = data.batches_per_epoch()
            _check_share("train", limit, batches)
            if 0 < trainer.limit_val_batches < 1:
                _check_share("val", trainer.limit_val_batches, len(data.val_dataloader()))
            batches = min(batches, limit) if isinstance(limit, int) else int(batches * limit)
            size = data.batch_size
        else:
            trainer.fit_loop.setup_data()
            batches, size = int(trainer.num_training_batches), _batch_size(trainer.train_dataloader)
        return TrainingLength(
            steps_per_epoch=max(1, math.ceil(batches / accumulated)),
            epochs=1000 if trainer.max_epochs is None else trainer.max_epochs,
            images_per_step=size * trainer.world_size * accumulated,
            max_steps=trainer.max_steps,
        )

    def _data(self) -> Any:
        return getattr(self.trainer, "datamodule", None)

    def configure_callbacks(self) -> list[pl.Callback]:
        """Return what logs the metrics of training, in whatever Trainer the module is."""
        return [TrainMetrics()]

    def on_after_batch_transfer(self, batch: Batch, dataloader_idx: int) -> Any:
        """Vary a batch of training on its device."""
        if self.augment is None or not self.trainer.training:
            return batch
        x, y, index = cast(tuple[Inputs, Tensor, Tensor], batch)
        epoch = 0 if getattr(self.trainer, "overfit_batches", 0) else self.current_epoch
        return *self.augment(x, y, index, epoch), index

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Return the loss of one batch; the first step whose loss is not finite is remembered."""
        x, y = batch[:2]
        self.method.set_progress(self.global_step / self._steps)
        out: StepOutput = self.method(x, y)
        self._train_sums.add(out)
        # Kept on the device: reading it every step would make a GPU wait.
        bad = torch.where(torch.isfinite(out.loss.detach()), torch.inf, float(self.global_step))
        self._first_bad = torch.minimum(bad, self._first_bad.to(bad.device))
        return out.loss

    def check_finite(self) -> None:
        """Raise UserError naming the first step since the last call whose loss was NaN or infinite."""
        if (step := float(self._first_bad)) != torch.inf:
            raise UserError(
                f"the loss became NaN or infinite at step {int(step)} (epoch {self.current_epoch})",
                expected="a finite loss; the last good checkpoint is kept",
                remedy="lower optim.lr, raise optim.warmup_epochs, or set trainer.gradient_clip_val=1",
            )

    def check_weights(self) -> None:
        """Raise UserError naming the first weight that holds NaN although the loss does not.

        It happens where a weight never meets data: on some CPUs a strided 3x3 convolution of a 1x1 feature
        map gets garbage as bfloat16 gradient in the places that only ever see padding.
        """
        for name, parameter in self.method.named_parameters():
            if not torch.isfinite(parameter).all():
                raise UserError(
                    f"{name} holds NaN or infinite values (epoch {self.current_epoch})",
                    expected="finite weights; the last good checkpoint is kept",
                    remedy="use larger images, or trainer.precision=32-true",
                )

    def train_metrics(self) -> dict[int, dict[str, float]]:
        """Return {dim: {loss, top1}} averaged since the last call, of this process."""
        return self._train_sums.drain()

    def publish(self, values: Mapping[str, float], **options: Any) -> None:
        """Log values by name: to callbacks as Lightning does, and to loggers at once.

        Lightning writes to loggers only after the hooks in which checkpoints are saved, so that a run that is
        resumed would lack what was measured in the step of the checkpoint.
        """
        self.log_dict(dict(values), logger=False, **options)
        for logger in self.loggers:
            logger.log_metrics({**values, "epoch": self.current_epoch}, step=self.global_step)

    def on_validation_epoch_start(self) -> None:
        """Start counting anew, on all ranks with the batch statistics of the first, which are those saved."""
        if self.trainer.world_size > 1:
            saved = self.method.state_dict().keys()
            for name, buffer in self.method.named_buffers():
                if name in saved:
                    torch.distributed.broadcast(buffer, src=0)
        self._val_sums = torch.zeros(len(self.method.spec), len(self.method.metrics) + 1, device=self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Add one batch to the sums, leaving out samples that only pad this rank's last batches."""
        x, y, *index = batch
        if index:  # of this project's loaders; others have none
            mine = index[0] % self.trainer.world_size == self.trainer.global_rank
            x, y = tree_map(lambda part: part[mine], (x, y))
        if len(y):
            self._val_sums += self.method.validate(x, y)

    def on_validation_epoch_end(self) -> None:
        """Add up the ranks and publish the result."""
        total = self.trainer.strategy.reduce(self._val_sums, reduce_op="sum")
        assert isinstance(total, Tensor)
        means = (total[:, :-1] / total[:, -1:]).tolist()
        self.validation = {
            dim: dict(zip(self.method.metrics, row, strict=True))
            for dim, row in zip(self.method.spec.dims, means, strict=True)
        }
        self.validated_step = self.global_step
        if not self.trainer.sanity_checking:
            self.publish(named("val", self.validation))
            largest = self.validation[self.method.spec.dims[-1]]
            self.log_dict({f"val/{name}": value for name, value in largest.items()}, logger=False)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilds the method, each rank's random state, and what is being measured."""
        checkpoint["inputs"] = dict(self.inputs)
        if self.owner is not None:
            checkpoint["run"] = self.owner
        checkpoint["random_states"] = _gather_random_states()
        checkpoint["train_sums"] = self._train_sums.state_dict()
        checkpoint["validation"] = self.validated_step, self.validation

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep the random states until training starts: sanity checks and set-up draw from them too."""
        self._restored_states = checkpoint["random_states"]
        self.validated_step, self.validation = checkpoint.get("validation", (-1, {}))
        if self.global_rank == 0 and "train_sums" in checkpoint:  # of the first process, which logs
            self._train_sums.load_state_dict(checkpoint["train_sums"])

    def on_train_start(self) -> None:
        """Restore this rank's random state after a resume; count the steps that weights rise by."""
        if self.method.weights_rise:
            self._steps = self.length().steps
        if self.global_rank < len(self._restored_states):
            cpu, cuda = self._restored_states[self.global_rank]
            torch.set_rng_state(cpu)
            if cuda is not None and torch.cuda.is_available():
                torch.cuda.set_rng_state(cuda)
        self._restored_states = []


def _batch_size(loaders: Any) -> int:
    """Return the samples of a batch, as far as a loader of the user's tells."""
    return next((size for loader in tree_leaves(loaders) if (size := getattr(loader, "batch_size", None))), 1)


def _check_share(split: str, limit: float, batches: int) -> None:
    """Raise UserError when a share of the batches is less than one batch."""
    if isinstance(limit, float) and int(batches * limit) == 0:
        raise UserError(
            f"trainer.limit_{split}_batches={limit} leaves no batch of the {batches} of {split}",
            expected=f"a share of at least {math.ceil(1e4 / max(1, batches)) / 1e4}, or a whole number",
            remedy="trainer.limit_val_batches=0 trains without validation" if split == "val" else "",
        )


def _gather_random_states() -> list[tuple[Tensor, Tensor | None]]:
    state = (torch.get_rng_state(), torch.cuda.get_rng_state() if torch.cuda.is_available() else None)
    if not torch.distributed.is_initialized():
        return [state]
    states: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(states, state)
    return states
