"""Adaptors: maps of vectors that another model made, after which their prefixes serve."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from mrl_experiments.errors import UserError

KINDS = ("orthogonal", "linear", "mlp")
ORTHOGONAL = 1e-6  # how far R'R may be from I
Matrix = NDArray[np.float64]


class Adaptor(nn.Module):
    """Map vectors x (B, D) to z (B, D), all of whose prefixes are to be used.

    `orthogonal` is z = x R with R'R = I, so cosines and norms at full width stay. `linear` is z = x A. `mlp`
    adds to z = x R a residual `|x| g(x / |x|)` of an MLP g with one hidden layer.

    Args:
        width: D.
        pairs: Whether the data have pairs of queries and documents.
        kind: One of KINDS; None is linear for pairs, which judge the full width too, else orthogonal.
        hidden: Neurons of the MLP; None is D.
        two_maps: One matrix for queries and another one for documents, of kind=linear with pairs. Both begin
            as one.
        name: How runs call the model.

    Attributes:
        width: D.
        start: (D, D), the closed form that training starts from.
    """

    start: Tensor

    def __init__(
        self,
        width: int,
        *,
        pairs: int = 0,
        kind: str | None = None,
        hidden: int | None = None,
        two_maps: bool = False,
        name: str = "adaptor",
    ) -> None:
        super().__init__()
        kind = kind or ("linear" if pairs else "orthogonal")
        if kind not in KINDS:
            raise UserError(f"model.kind={kind}", expected=f"one of {', '.join(KINDS)}")
        self.width, self.kind = width, kind
        self.linear = nn.Linear(width, width, bias=False)
        self.mlp: nn.Sequential | None = None
        if kind == "mlp":
            hidden = hidden or width
            self.mlp = nn.Sequential(
                nn.Linear(width, hidden), nn.ReLU(), nn.Linear(hidden, width, bias=False)
            )
        if two_maps and not (pairs and kind == "linear"):
            raise UserError(
                f"model.two_maps=true with model.kind={kind} and {'' if pairs else 'no '}data.pairs",
                expected="model.kind=linear and data.pairs: nothing else tells queries from documents",
            )
        self.query = nn.Linear(width, width, bias=False) if two_maps else None
        self.register_buffer("start", torch.eye(width))
        self.use(np.eye(width))

    @property
    def keeps_cosines(self) -> bool:
        """Whether the cosines of all D dims are those of x by construction."""
        return self.kind == "orthogonal"

    def forward(self, x: Tensor) -> Tensor:
        """Return z (B, D) float32, whatever the precision around it: half of it would tie cosines."""
        if self.training:
            self._retract()
        with torch.autocast(x.device.type, enabled=False):
            x = x.float()
            z: Tensor = self.linear(x)
            if self.mlp is not None:
                norms = x.norm(dim=1, keepdim=True)
                z = z + norms * self.mlp(x / norms.clamp_min(torch.finfo(x.dtype).tiny))
            return z

    def forward_queries(self, x: Tensor) -> Tensor:
        """Return z (B, D) of queries, which may have a map of their own."""
        if self.query is None:
            return self(x)
        with torch.autocast(x.device.type, enabled=False):
            return self.query(x.float())

    def train(self, mode: bool = True) -> "Adaptor":
        """Switch to training, or to use, for which the matrix becomes orthogonal as far as float32 goes."""
        if not mode and self.kind != "linear":
            weight = self.linear.weight.detach()
            matrix = weight.cpu().numpy()
            if np.abs(matrix @ matrix.T - np.eye(self.width, dtype=np.float32)).max() > ORTHOGONAL:
                weight.copy_(torch.from_numpy(nearest_orthogonal(matrix)))
        return super().train(mode)

    @torch.no_grad()
    def _retract(self) -> None:
        """Bring the matrix back to the orthogonal ones, which a step of the optimizer leaves.

        By QR, which keeps what the first m dims span, for every m, however long the step was.
        """
        if self.kind != "linear":
            weight = self.linear.weight
            directions, triangle = torch.linalg.qr(weight.T)
            weight.copy_((directions * torch.where(triangle.diagonal() < 0, -1.0, 1.0)).T)

    def start_from(self, matrix: Matrix) -> None:
        """Begin at a closed form (D, D): z = x @ matrix."""
        self.start.copy_(torch.from_numpy(np.ascontiguousarray(matrix)))
        self.use(matrix)

    @torch.no_grad()
    def use(self, matrix: Matrix) -> None:
        """Become the linear map (D, D) alone; an orthogonal one must be given where only that is allowed."""
        for linear in filter(None, (self.linear, self.query)):
            linear.weight.copy_(torch.from_numpy(np.ascontiguousarray(matrix.T)))
        if self.mlp is not None:
            nn.init.zeros_(self.mlp.get_parameter("2.weight"))

    @torch.no_grad()
    def arrays(self) -> dict[str, NDArray[np.float32]]:
        """Return the map as the arrays of an `AdaptorFile`.

        Returns:
            `matrix` (D, D), orthogonal to float32's last digits where the kind is; of `mlp` also `mlp_in`
            (D, H), `mlp_bias` (H,) and `mlp_out` (H, D); of two maps `query_matrix` (D, D), if it differs.
        """
        matrix = self.linear.weight.double().cpu().numpy().T
        arrays = {"matrix": matrix if self.kind == "linear" else nearest_orthogonal(matrix)}
        if self.query is not None and not torch.equal(self.query.weight, self.linear.weight):
            arrays["query_matrix"] = self.query.weight.double().cpu().numpy().T
        if self.mlp is not None and self.mlp.get_parameter("2.weight").any():
            into, bias, out = (parameter.cpu().numpy() for parameter in self.mlp.parameters())
            arrays |= {"mlp_in": into.T, "mlp_bias": bias, "mlp_out": out.T}
        return {name: np.ascontiguousarray(array, np.float32) for name, array in arrays.items()}


def nearest_orthogonal(matrix: Matrix) -> Matrix:
    """Return the orthogonal matrix (D, D) nearest to one that is so but for rounding (its polar factor)."""
    left, _, right = np.linalg.svd(np.asarray(matrix, np.float64))
    return np.asarray(left @ right)
