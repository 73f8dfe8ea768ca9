"""From a language model and the beginning of a text to its continuation at one nested size."""

import math
from pathlib import Path

import torch
from omegaconf import DictConfig
from torch import Tensor

from mrl_experiments.build import check_data, construct, load_method
from mrl_experiments.data.text.text_data import TextData
from mrl_experiments.errors import UserError
from mrl_experiments.losses.method import Method
from mrl_experiments.models.text_backbone import TextBackbone
from mrl_experiments.runs import find_runs


def generate(cfg: DictConfig) -> str:
    """Return the prompt of a configuration and what a run's model makes of it.

    Raises UserError for several runs, a run that predicts no next tokens, a size that is not nested, an empty
    prompt, and numbers out of range.
    """
    _check_numbers(cfg.tokens, cfg.temperature)
    runs = find_runs(Path(cfg.root), cfg.run)
    if len(runs) > 1:
        raise UserError(f"run={cfg.run} matches {len(runs)} runs", expected="the name of one")
    (run,) = runs
    data = construct(run.config.data)
    if not isinstance(data, TextData) or data.masked is not None:
        raise UserError(
            f"run {run.name} does not predict next tokens",
            expected="a causal language model, such as one of experiment=gpt_stdlib",
        )
    method = load_method(run)
    dim = method.spec.dims[-1] if cfg.dim is None else cfg.dim
    if dim not in method.spec.dims:
        raise UserError(f"dim={dim}: not a size of {run.name}", expected=f"one of {list(method.spec.dims)}")
    check_data(run, data)
    (prompt,) = data.tokenizer.encode([cfg.prompt])
    if not len(prompt):
        raise UserError(f"prompt={cfg.prompt!r} has no token", expected="a text that is not empty")
    random = torch.Generator().manual_seed(cfg.seed)
    new = continuation(method, torch.from_numpy(prompt), dim, cfg.tokens, cfg.temperature, random)
    return str(cfg.prompt) + data.tokenizer.decode(new.tolist())


@torch.inference_mode()
def continuation(
    method: Method, prompt: Tensor, dim: int, count: int, temperature: float, random: torch.Generator
) -> Tensor:
    """Return the `count` tokens that follow a prompt (T,), drawn from the head of size `dim`.

    temperature: divides the logits; 0 takes the largest. The model sees as many of the last tokens as it has
    positions.
    """
    backbone = method.backbone
    assert isinstance(backbone, TextBackbone)
    tokens = prompt
    for _ in range(count):
        seen = tokens[-backbone.positions :]
        logits = method.logits(method.embed(seen[None])[:, -1])[dim][0]
        if temperature == 0:
            chosen = logits.argmax()[None]
        else:
            chosen = torch.multinomial((logits / temperature).softmax(0), 1, generator=random)
        tokens = torch.cat([tokens, chosen])
    return tokens[len(prompt) :]


def _check_numbers(tokens: int, temperature: float) -> None:
    if not isinstance(tokens, int) or tokens < 1:
        raise UserError(f"tokens={tokens}", expected="a whole number from 1")
    if not isinstance(temperature, int | float) or not 0 <= temperature < math.inf:
        raise UserError(f"temperature={temperature}", expected="a number from 0; 0 takes the likeliest token")
