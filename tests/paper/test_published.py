"""The published values: nothing lost, nothing invented, oddities flagged."""

from collections import Counter

import pytest

from mrl_experiments.paper import published

# Values per table: 3,052 in all; with the 421 sizes, list lengths and weights they stand at, 3,473 numbers.
COUNTS = {
    1: 53, 2: 61, 3: 80, 4: 70, 5: 24, 6: 8, 7: 14, 8: 516, 9: 324, 10: 204, 11: 360, 12: 360, 13: 54, 14: 72,
    15: 90, 16: 162, 17: 135, 18: 40, 19: 36, 20: 72, 21: 12, 22: 22, 23: 10, 24: 1, 25: 18, 26: 45, 27: 54,
    28: 29, 29: 18, 30: 54, 31: 54,
}  # fmt: skip
NOT_FRACTIONS = {
    "MFLOPs", "seconds", "MB", "build_seconds", "cosine", "expected_dim", "expected_dim_std", "classes",
}  # fmt: skip


def value(table: str, metric: str, **where: object) -> float:
    rows = [
        row
        for row in published(table)
        if row.metric == metric
        and row.source.startswith("arXiv")
        and all(getattr(row, key) == expected for key, expected in where.items())
    ]
    values = {row.value for row in rows}
    assert len(values) == 1, rows
    return values.pop()


def test_every_table_has_all_its_values():
    counts = Counter(row.table for row in published())
    assert {int(name[5:]): count for name, count in counts.items() if name.startswith("table")} == COUNTS
    assert sum(COUNTS.values()) == 3052


@pytest.mark.parametrize(
    ("expected", "table", "metric", "where"),
    [
        (0.6663, "table01", "top1", {"method": "mrl", "dim": 8}),
        (0.7687, "table01", "top1", {"method": "ff", "dim": 2048, "reduction": "prefix"}),
        (0.0456, "table01", "top1", {"evaluation": "probe", "reduction": "random", "dim": 8}),
        (0.0236, "table02", "top1", {"method": "ff", "reduction": "prefix", "dim": 8, "trained": False}),
        (0.5893, "table02", "top1", {"method": "ff", "reduction": "prefix", "dim": 8, "trained": True}),
        (36.26, "table03", "expected_dim", {"dim": 128}),
        (0.0016, "table03", "top1_std", {"dim": 128}),
        (0.6520, "table08", "mAP@10", {"method": "mrl", "dim": 2048}),
        (0.5883, "table08", "mAP@10", {"method": "mrl_e", "dim": 12}),
        (0.1720, "table10", "mAP@10", {"dim": 2048}),
        (
            20.54,
            "table13",
            "MFLOPs",
            {
                "setting": {
                    "index": "flat",
                    "stages": ((16, 200), (32, 100), (64, 50), (128, 25), (256, 10), (2048, 10)),
                }
            },
        ),
    ],
)
def test_spot_values(expected, table, metric, where):
    assert value(table, metric, **where) == pytest.approx(expected, abs=1e-9)


def test_accuracies_are_fractions():
    for row in published():
        if row.metric not in NOT_FRACTIONS:
            assert 0 <= row.value <= 1, row


def test_cells_the_paper_leaves_empty_have_no_row():
    assert not [row for row in published("table01") if row.reduction == "svd_head" and row.dim == 2048]
    assert not [row for row in published("table02") if row.reduction == "jl" and row.dim > 512]


def test_anomalies_are_flagged():
    flagged = {row.table for row in published() if row.anomaly}
    assert flagged >= {"table02", "table03", "table10", "table15", "table19", "table23", "table27"}
    assert all(row.anomaly for row in published("table02") if row.reduction == "jl")
    (misprint,) = [row for row in published("table10") if row.anomaly]
    assert (misprint.dim, misprint.metric, misprint.value) == (16, "P@100", 0.1327)


def test_every_value_says_where_it_was_read():
    assert all(row.source and row.anomaly is not None for row in published())


def test_only_projections_at_chance_level_are_no_target():
    odd = [row for row in published() if row.anomaly.endswith("not a target")]
    assert {(row.table, row.reduction) for row in odd} == {("table02", "jl")}


def test_single_shot_cost_is_the_size_times_the_database():
    counts = {"imagenet1k": 1_281_167, "imagenet4k": 4_202_000}
    for table in ("table08", "table09", "table10"):
        costs = [row for row in published(table) if row.metric == "MFLOPs"]
        assert costs
        for row in costs:
            # Printed without decimals, sometimes cut off and sometimes rounded.
            assert abs(row.value - counts[row.dataset] * row.dim / 1e6) < 1, row


def test_tables_that_print_the_same_numbers_agree():
    shortlist = {
        row.metric: row.value for row in published("table30") if str(row.setting).endswith("shortlist=200")
    }
    full = {
        row.metric: row.value
        for row in published("table11")
        if row.dim == 16
        and str(row.setting) == "index=flat rerank=2048 shortlist=200"
        and row.metric != "MFLOPs"
    }
    assert shortlist == full
