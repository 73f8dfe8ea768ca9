"""Augmentations of whole batches, after the loader, so that both loaders and all devices have them alike."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchvision.transforms import v2

from mrl_experiments.data.loaders.counter_rng import seed_of, stream
from mrl_experiments.errors import UserError

OPERATIONS, ERASING, MIXING = 1, 2, 3  # numbers of the generators of a sample
LEVELS = 255


class BatchAugment:
    """RandAugment, random erasing, mixup and CutMix, as torchvision has them.

    What is drawn for a sample depends on (seed, epoch, sample) alone, what is drawn for a mixture on the
    first sample of its batch: a resumed run sees the same images.

    Args:
        mixup: Alpha of the Beta distribution of the mixed share; 0 is off.
        cutmix: The same of the pasted area; 0 is off. With both, each batch gets one of them.
        randaugment: Magnitude of two random operations on each image, 1 to 30; None is off.
        erasing: Share of the images that lose a rectangle, to noise.
        mean: Of each channel, in [0, 1], by which the loader has normalized.
        std: Likewise.
        num_classes: C.
        seed: Of all draws.
    """

    def __init__(
        self,
        mixup: float = 0.0,
        cutmix: float = 0.0,
        randaugment: int | None = None,
        erasing: float = 0.0,
        *,
        mean: Sequence[float] = (0.5,),
        std: Sequence[float] = (0.5,),
        num_classes: int,
        seed: int = 0,
    ) -> None:
        self.seed = seed
        self._mean, self._std = (torch.tensor(list(values)).view(-1, 1, 1) for values in (mean, std))
        self._operations = v2.RandAugment(magnitude=randaugment) if randaugment else None
        self._erase = v2.RandomErasing(p=erasing, value="random") if erasing else None
        mixed = [v2.MixUp(alpha=mixup, num_classes=num_classes)] if mixup else []
        mixed += [v2.CutMix(alpha=cutmix, num_classes=num_classes)] if cutmix else []
        self._mix: Any = v2.RandomChoice(mixed) if mixed else None

    @property
    def softens(self) -> bool:
        """Whether labels become probabilities."""
        return self._mix is not None

    def __call__(self, x: Any, y: Tensor, index: Tensor, epoch: int) -> tuple[Tensor, Tensor]:
        """Return a varied batch.

        Args:
            x: Normalized images (B, C, H, W).
            y: Labels (B,), int64.
            index: The number of each sample (B,).
            epoch: Of the draws.

        Returns:
            Images (B, C, H, W), and labels (B,) or probabilities (B, C).

        Raises:
            UserError: If x are no images.
        """
        if not (isinstance(x, Tensor) and x.ndim == 4 and x.is_floating_point()):
            raise UserError(
                "batch_augment= varies images, and these data are none", remedy="batch_augment=none"
            )
        key, numbers = stream(self.seed, epoch), index.tolist()
        with torch.random.fork_rng(devices=[]):
            if self._operations or self._erase:
                images = [self._vary(one, key, number) for one, number in zip(x, numbers, strict=True)]
                x = torch.stack(images).contiguous(memory_format=torch.channels_last)
            if self._mix is not None:
                torch.default_generator.manual_seed(seed_of(key, numbers[0], MIXING))
                x, y = self._mix(x, y)
        return x, y

    def _vary(self, image: Tensor, key: Any, number: int) -> Tensor:
        """Return one image (C, H, W), varied by its own generators."""
        if self._operations is not None:
            torch.default_generator.manual_seed(seed_of(key, number, OPERATIONS))
            mean, std = self._mean.to(image), self._std.to(image)
            levels = ((image * std + mean) * LEVELS).round().clamp(0, LEVELS).to(torch.uint8)
            image = (self._operations(levels).to(image.dtype) / LEVELS - mean) / std
        if self._erase is not None:
            torch.default_generator.manual_seed(seed_of(key, number, ERASING))
            image = self._erase(image)
        return image
