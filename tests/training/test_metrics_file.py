import pytest

from mrl_experiments.errors import UserError
from mrl_experiments.training.metrics_file import MetricsFile


def test_lines_are_appended_and_rewound_to_the_resumed_step(tmp_path):
    log = MetricsFile(tmp_path / "metrics.csv")
    log.log_metrics({"train/loss@8": 2.5, "lr": 0.1, "epoch": 0}, step=20)
    MetricsFile(tmp_path / "metrics.csv").log_metrics({"val/top1@16": 0.25, "epoch": 1}, step=40)
    with log.path.open("a") as file:
        file.write("60,1,lr")  # a kill in the middle of a line
    log.rewind(20)
    assert log.path.read_text().splitlines() == [
        "step,epoch,metric,dim,value",
        "20,0,train/loss,8,2.5",
        "20,0,lr,,0.1",
    ]


GOOD = ["step,epoch,metric,dim,value", "20,0,train/loss,8,2.5", "20,0,lr,,0.1", "40,1,lr,,0.2"]


@pytest.mark.parametrize(
    "damaged",
    [
        "x,1,lr,,0.1",
        "30,1,lr,,",
        "30,1,lr",
        '30,1,"lr,,0.1',
        "30,1,lr,,0.1,5",
        "\0\0\0",
        "30,one,lr,,1",
        "30,1,,,1",
    ],
)
def test_damaged_lines_are_left_out_with_a_word(tmp_path, damaged, capsys):
    path = tmp_path / "metrics.csv"
    path.write_text("\n".join([*GOOD[:2], damaged, *GOOD[2:]]) + "\n")
    MetricsFile(path).rewind(50)
    assert path.read_text().splitlines() == GOOD
    assert "1 damaged lines are left out" in capsys.readouterr().out


@pytest.mark.parametrize("content", [b"", b"a,b\n1,2\n", bytes(range(256)), b"\xff\xfe\n"])
def test_a_file_of_something_else_is_set_aside(tmp_path, content, capsys):
    path = tmp_path / "metrics.csv"
    path.write_bytes(content)
    log = MetricsFile(path)
    log.rewind(20)
    log.log_metrics({"lr": 0.5, "epoch": 2}, step=21)
    assert path.read_text().splitlines() == [GOOD[0], "21,2,lr,,0.5"]
    assert (tmp_path / "metrics.damaged").read_bytes() == content
    assert "metrics.damaged" in capsys.readouterr().out


def test_a_folder_in_its_place_is_one_message(tmp_path):
    (tmp_path / "metrics.csv").mkdir()
    log = MetricsFile(tmp_path / "metrics.csv")
    for use in (lambda: log.rewind(-1), lambda: log.log_metrics({"lr": 1.0}, step=1)):
        with pytest.raises(UserError, match=r"metrics\.csv(: | is )a folder"):
            use()


def test_a_missing_file_and_that_of_another_run_are_told(tmp_path, capsys):
    log, other = MetricsFile(tmp_path / "metrics.csv"), MetricsFile(tmp_path / "other" / "metrics.csv")
    other.path.parent.mkdir()
    for one, value in ((log, 0.5), (other, 0.6)):
        one.log_metrics({"lr": value, "epoch": 1}, step=20)
    known = log.written()
    log.log_metrics({"lr": 0.4, "epoch": 1}, step=21)
    log.rewind(21, **known)
    assert log.path.read_text().splitlines()[1:] == ["20,1,lr,,0.5"] and not capsys.readouterr().out
    log.rewind(21, **other.written())
    assert "is not the one that the checkpoint was written with" in capsys.readouterr().out
    log.rewind(21, **known)
    assert "is missing: a new one begins" in capsys.readouterr().out
