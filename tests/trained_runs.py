"""Small runs of each kind, trained once for all tests of a session that read them."""

import numpy as np
from captioned import options, write_table
from composing import composed

from mrl_experiments.runs import Run, run_of
from mrl_experiments.training.train import train

QUICK = ["logger=csv", "trainer=cpu", "trainer.progress=false", "trainer.precision=32-true", "seed=0"]
DIGITS = ["data=digits", "data.loader=torch", "model.arch=test_resnet", "model.name=tiny", *QUICK]
DIGITS += ["data.workers=0"]
TEXTS = [
    *("data=text_folder", "data.vocabulary=280", "data.length=8", "data.batch_size=8"),
    *("++model.options.intermediate_size=32", "model.width=16", "model.layers=1", "model.attention_heads=2"),
    *("loss=mrl_e", "loss.label_smoothing=0", "loss.dims=[8,16]", "optim=adamw_cosine", "epochs=1", *QUICK),
]


class TrainedRuns:
    """Trains each kind when it is first asked for."""

    def __init__(self, folder):
        self.folder, self._runs = folder, {}

    def __getitem__(self, kind) -> Run:
        if kind not in self._runs:
            cfg = composed("train", *getattr(self, f"_{kind}")(), f"root={self.folder / kind}")
            train(cfg)
            self._runs[kind] = run_of(cfg)
        return self._runs[kind]

    def _digits(self):
        return [*DIGITS, "loss=mrl", "epochs=6"]

    def _digits_vit(self):
        vit = ["model.arch=test_vit", "+model.options.patch_size=8", "+model.options.embed_dim=64"]
        return [*DIGITS, *vit, "model.name=vit", "loss=mrl_e", "epochs=1", "optim=adamw_cosine"]

    def _digits_convnext(self):
        return [*DIGITS, "model.arch=test_convnext", "model.name=convnext", "loss=mrl", "epochs=1"]

    def _captions(self):
        pictures = self.folder / "pictures"
        pictures.mkdir(exist_ok=True)
        table = write_table(pictures)
        return [*options(table), "loss=infonce", "epochs=1"]

    def _causal(self):
        return ["model=gpt_small", *TEXTS, f"data.root={self._texts()}"]

    def _masked(self):
        return ["model=bert_small", *TEXTS, f"data.root={self._texts()}", "data.masked=0.3"]

    def _texts(self):
        root = self.folder / "texts"
        if not root.exists():
            root.mkdir()
            for number in range(20):
                words = [f"word{number * k % 97}" for k in range(400)]
                (root / f"{number}.txt").write_text(" ".join(words))
        return root

    def _adaptor(self):
        path = self.folder / "base.npy"
        np.save(path, np.random.default_rng(0).standard_normal((300, 16), dtype=np.float32) ** 3)
        return [
            *("data=vectors", f"data.base={path}", "model=adaptor", "loss=similarity_distillation"),
            *("optim=adamw_cosine", "epochs=1", *QUICK),
        ]
