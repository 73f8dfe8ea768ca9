"""What a nested vocabulary head costs a language model: python scripts/bench_lm.py [--rounds 9]

A GPT-2 of 4 layers on 16 sequences of 128 tokens: the whole training step with MRL-E on the embedding matrix
against the same model with one plain tied head (`F.linear` and `F.cross_entropy`). Contenders take turns
within a round; a figure is the median over rounds of the ratio within a round. Memory is what head and loss
allocate at their peak, beside the parameters' gradients. Prints a table and, as its last line, a JSON object.
"""

import argparse
import json
import statistics
from collections.abc import Callable

import torch
import torch.nn.functional as F
from bench_heads import interleaved, peak_bytes, ratio
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn

from mrl_experiments.losses.cross_entropy import nested_cross_entropy
from mrl_experiments.models.text_backbone import TextBackbone
from mrl_experiments.nesting import default_dims

SEQUENCES, LENGTH, VOCABULARIES = 16, 128, (4096, 30522)
WIDTH, LAYERS = 256, 4


class Model:
    """A causal language model, its optimizer and one batch of random tokens."""

    def __init__(self, vocabulary: int, nested: bool) -> None:
        torch.manual_seed(0)
        self.backbone = TextBackbone(
            arch="gpt2",
            name="gpt",
            width=WIDTH,
            layers=LAYERS,
            attention_heads=4,
            vocabulary=vocabulary,
            length=LENGTH,
            causal=1,
        )
        self.nested, self.dims = nested, default_dims(WIDTH)
        self.optimizer = torch.optim.AdamW(self.backbone.parameters())
        self.tokens = torch.randint(vocabulary, (SEQUENCES, LENGTH))
        self.labels = torch.randint(vocabulary, (SEQUENCES, LENGTH))

    def loss(self, z: Tensor) -> Tensor:
        """Return the loss of features z (B, T, D)."""
        weight = self.backbone.shared_embedding
        assert isinstance(weight, nn.Parameter)
        if self.nested:
            return nested_cross_entropy(z, weight, None, self.labels, self.dims).total
        return F.cross_entropy(F.linear(z, weight).flatten(0, 1), self.labels.flatten())

    def step(self) -> None:
        """Train on the batch."""
        self.optimizer.zero_grad()
        self.loss(self.backbone(self.tokens)).backward()
        self.optimizer.step()

    def peak(self) -> int:
        """Return the bytes at the peak of head and loss, without the gradient of the matrix."""
        z = torch.randn(SEQUENCES, LENGTH, WIDTH, requires_grad=True)
        self.optimizer.zero_grad()
        return peak_bytes(lambda: self.loss(z), self.backbone.parameters())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=9)
    rounds, figures, console = parser.parse_args().rounds, {}, Console()
    for vocabulary in VOCABULARIES:
        models = {name: Model(vocabulary, nested=name == "mrl_e") for name in ("plain", "mrl_e")}
        steps: dict[str, Callable[[], object]] = {name: model.step for name, model in models.items()}
        seconds = interleaved(steps, rounds)
        peaks = {name: model.peak() for name, model in models.items()}
        title = f"GPT, {LAYERS} layers, D={WIDTH}, V={vocabulary}, {SEQUENCES * LENGTH} tokens"
        table = Table("head", "ms a step", "times plain", "peak MB of head and loss", title=title)
        for name, values in seconds.items():
            times = ratio(values, seconds["plain"])
            table.add_row(
                name, f"{1e3 * statistics.median(values):.0f}", f"{times:.3f}", f"{peaks[name] / 1e6:.0f}"
            )
        console.print(table)
        end = "" if vocabulary == VOCABULARIES[-1] else f"_{vocabulary}"
        figures[f"step_ratio{end}"] = round(ratio(seconds["mrl_e"], seconds["plain"]), 4)
        figures[f"memory_ratio{end}"] = round(peaks["mrl_e"] / peaks["plain"], 4)
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
