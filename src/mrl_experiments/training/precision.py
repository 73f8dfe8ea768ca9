"""The precision that a machine computes in."""

import torch


def best_precision(accelerator: str) -> str:
    """Return bf16-mixed where the hardware computes in it, else 16-mixed on a GPU and 32-true on a CPU."""
    if accelerator in ("gpu", "cuda"):
        return "bf16-mixed" if torch.cuda.is_bf16_supported(including_emulation=False) else "16-mixed"
    native = any(known for name, known in torch.cpu.get_capabilities().items() if name.endswith("bf16"))
    # torch emulates it elsewhere, which takes half as long again.
    return "bf16-mixed" if native else "32-true"
