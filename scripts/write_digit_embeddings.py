"""Files of embeddings from any timm model, as evaluate.py reads them: an example without this project's code.

python scripts/write_digit_embeddings.py --arch resnet18 --out digits
python evaluate.py embeddings=digits/test.npz database=digits/database.npz names.model=resnet18 evaluation=knn
python report.py
"""

import argparse
from pathlib import Path

import numpy as np
import timm
import torch
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--arch", default="resnet18", help="a timm model; --pretrained downloads its weights")
    parser.add_argument("--pretrained", action="store_true", help="else its weights are random")
    parser.add_argument("--out", type=Path, default=Path("digits"))
    arguments = parser.parse_args()
    torch.manual_seed(0)
    model = timm.create_model(arguments.arch, pretrained=arguments.pretrained, num_classes=0).eval()
    digits = load_digits()
    arguments.out.mkdir(parents=True, exist_ok=True)
    parts = train_test_split(
        np.arange(len(digits.target)), test_size=0.2, random_state=0, stratify=digits.target
    )
    for name, rows in zip(("database", "test"), parts, strict=True):
        path = arguments.out / f"{name}.npz"
        np.savez(path, embeddings=embed(model, digits.images[rows]), labels=digits.target[rows])
        print(f"{path}: {len(rows)} embeddings")


@torch.inference_mode()
def embed(model: torch.nn.Module, images: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return features (N, D) of grey images (N, 8, 8)."""
    pixels = torch.tensor(images / 16, dtype=torch.float32)[:, None].expand(-1, 3, -1, -1)
    large = torch.nn.functional.interpolate(pixels, size=32, mode="bilinear")
    return torch.cat([model(part) for part in (large * 2 - 1).split(256)]).numpy()


if __name__ == "__main__":
    main()
