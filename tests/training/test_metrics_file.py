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
