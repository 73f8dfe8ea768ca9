"""Continue a text with a language model, at one nested dim or adaptively."""

from dataclasses import dataclass
from statistics import fmean
from time import perf_counter
from typing import Any

import numpy as np
import torch
from omegaconf import DictConfig
from torch import Tensor

from mrl_experiments.adaptive.classification.cascade import Cascade
from mrl_experiments.adaptive.classification.classifier import run_cascade
from mrl_experiments.adaptive.classification.policies.uniform import Uniform
from mrl_experiments.build import load_method, restore_data, stored_data, trusted_config
from mrl_experiments.data.text.text_data import TextData
from mrl_experiments.errors import UserError
from mrl_experiments.losses.method import Method
from mrl_experiments.models.text_backbone import TextBackbone
from mrl_experiments.runs import Run, find_run


@dataclass(frozen=True)
class Generated:
    """A prompt with its continuation, the mean dim that chose its tokens, and tokens per second."""

    text: str
    mean_dim: float
    tokens_per_s: float

    @property
    def summary(self) -> str:
        """Mean dim and speed in words."""
        return f"mean dim {self.mean_dim:.1f}, {self.tokens_per_s:.0f} tokens/s"


def generate(cfg: DictConfig) -> Generated:
    """Return the prompt of a configuration and what a run's model makes of it.

    Raises:
        UserError: For several runs, a run that predicts no next tokens, a dim that is not nested, and an
            empty prompt.
    """
    run = find_run(cfg.root, cfg.run)
    with stored_data(run, trusted_config(run, cfg.trust), cfg.cache) as data:
        return _continued(cfg, run, data)


def _continued(cfg: DictConfig, run: Run, data: Any) -> Generated:
    if not isinstance(data, TextData) or data.masked is not None:
        raise UserError(
            f"run {run.name} does not predict next tokens",
            expected="a causal language model, such as one of experiment=gpt_stdlib",
        )
    method = load_method(run, cfg.trust)
    dim = method.spec.dims[-1] if cfg.dim is None else cfg.dim
    if dim not in method.spec.dims:
        raise UserError(f"dim={dim}: not a dim of {run.name}", expected=f"one of {list(method.spec.dims)}")
    restore_data(run, data)
    (prompt,) = data.tokenizer.encode([cfg.prompt])
    if not len(prompt):
        raise UserError(f"prompt={cfg.prompt!r} has no token", expected="a text that is not empty")
    if cfg.adaptive is None:
        cascade = Cascade((dim,), ())
    else:
        cascade = Uniform(cfg.adaptive).cascade([m for m in method.spec.dims if m <= dim])
    random = torch.Generator().manual_seed(cfg.seed)
    start = perf_counter()
    new, dims_used = continuation(
        method, torch.from_numpy(prompt), cascade.pruned(), cfg.tokens, cfg.temperature, random
    )
    speed = len(dims_used) / (perf_counter() - start)
    return Generated(str(cfg.prompt) + data.tokenizer.decode(new.tolist()), fmean(dims_used), speed)


@torch.inference_mode()
def continuation(
    method: Method,
    prompt: Tensor,
    cascade: Cascade,
    count: int,
    temperature: float,
    random: torch.Generator,
) -> tuple[Tensor, list[int]]:
    """Return the `count` tokens that follow a prompt (T,), and the dim whose head chose each.

    The model reads as many of the last tokens as it has positions; until they are full, it computes each
    token once.

    Args:
        cascade: The dims that a token's head tries, one after the other.
        temperature: Divides the logits, but not those that the confidence is computed from; 0 takes the
            largest.
    """
    backbone, heads = method.backbone, method.heads()
    assert isinstance(backbone, TextBackbone) and heads is not None
    tokens, dims_used, cache = prompt, [], None
    for _ in range(count):
        new = tokens[-1:]
        if cache is None or len(tokens) > backbone.positions:  # the window, and so all positions, move
            new = tokens[-backbone.positions :]
            cache = backbone.new_cache() if len(tokens) < backbone.positions else None
        z = backbone.last(new[None], cache).float().numpy()
        *_, last = run_cascade(cascade, z, heads, np.arange(1))
        logits = torch.from_numpy(last.logits[0])
        if temperature == 0:
            chosen = logits.argmax()[None]
        else:
            chosen = torch.multinomial((logits / temperature).softmax(0), 1, generator=random)
        tokens = torch.cat([tokens, chosen])
        dims_used.append(last.dim)
    return tokens[len(prompt) :], dims_used
