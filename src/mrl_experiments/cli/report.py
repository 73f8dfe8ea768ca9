"""Tables, figures and a page from result rows: mrl-report"""

from omegaconf import DictConfig

from mrl_experiments.command import command


@command("report", isolate=False)
def main(cfg: DictConfig) -> None:
    """Read the rows, write the report, say where it is."""
    import sys
    import webbrowser
    from pathlib import Path

    from mrl_experiments.report.write import write_report

    out = Path(cfg.out)
    for warning in write_report(cfg.rows, out, Path(cfg.root) / "runs", cfg.counterparts, cfg.figures):
        print(f"note: {warning}", file=sys.stderr)
    page = out / "index.html"
    print(f"report: {page}")
    if "wandb" in (cfg.get("logger") or {}):
        from mrl_experiments.construct import construct
        from mrl_experiments.training.wandb_logger import log_report

        log_report(construct(cfg.logger.wandb), out)
    if cfg.open and not webbrowser.open(page.absolute().as_uri()):
        print("note: no browser was found; open the page yourself", file=sys.stderr)


if __name__ == "__main__":
    main()
