"""List the networks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from mobilevit.deployment.contract import LARGEST
from mobilevit.errors import UserError, unknown

if TYPE_CHECKING:
    from rich.console import Console

PUBLISHED = {
    "mobilevit_xxs": 69.0,
    "mobilevit_xs": 74.8,
    "mobilevit_s": 78.4,
    "mobilevitv2_050": 70.18,
    "mobilevitv2_075": 75.56,
    "mobilevitv2_100": 78.09,
    "mobilevitv2_125": 79.65,
    "mobilevitv2_150": 80.38,
    "mobilevitv2_175": 80.84,
    "mobilevitv2_200": 81.17,
}
"""ImageNet-1k top-1 at 256 px in percent, not measured here: of MobileViT, the paper's table in its
Figure 3; of MobileViTv2, the model zoo of the authors' ml-cvnets."""


@dataclass(frozen=True)
class Row:
    """A network and what it costs.

    Attributes:
        name: for ``create_model``.
        parameters: at 1000 classes.
        multiply_adds: of one picture, attention's matrix products included.
        published_top1: on ImageNet-1k in percent, as the authors give it.
        weights: names of its weights that come with the package.
    """

    name: str
    parameters: int
    multiply_adds: int
    published_top1: float | None
    weights: tuple[str, ...]


@dataclass(frozen=True)
class Models:
    """The networks that match, and the side in pixels that their cost was counted at."""

    rows: tuple[Row, ...]
    size: int

    def to_dict(self) -> dict[str, Any]:
        """Return it as plain Python."""
        return {"size": self.size, "models": [asdict(row) for row in self.rows]}

    def print(self, console: Console) -> None:
        """Print it as a table."""
        from rich.table import Table

        table = Table("name", caption="top-1: ImageNet-1k, as the authors give it")
        for column in ("parameters", f"multiply-adds at {self.size} px", "top-1"):
            table.add_column(column, justify="right")
        table.add_column("comes with")
        for row in self.rows:
            top1 = "" if row.published_top1 is None else f"{row.published_top1} %"
            table.add_row(
                row.name,
                f"{row.parameters:,}",
                f"{row.multiply_adds / 1e6:,.0f} M",
                top1,
                ", ".join(row.weights),
            )
        console.print(table)


def models(pattern: str = "*", size: int = 256) -> Models:
    """List the networks whose names match a shell pattern.

    Args:
        pattern: for example ``"*_xs"``.
        size: side of the input that the multiply-adds are counted at, in pixels.

    Raises:
        UserError: when none matches, with the nearest name, or for a size that is none.
    """
    if not 1 <= size <= LARGEST:
        raise UserError(f"size is {size}; it must be from 1 to {LARGEST}.")
    from mobilevit.deployment.cost import count_multiply_adds, count_parameters
    from mobilevit.networks import create_model, list_models
    from mobilevit.weights import list_weights, network_of

    names = list_models(pattern)
    if not names:
        raise unknown("model", pattern, list_models())
    rows = []
    for name in names:
        network = create_model(name)
        cost = count_multiply_adds(network, (size, size))
        weights = tuple(known for known in list_weights() if network_of(known) == name)
        rows.append(Row(name, count_parameters(network), cost, PUBLISHED.get(name), weights))
    return Models(tuple(rows), size)
