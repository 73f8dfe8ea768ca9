"""Tables, figures and a page from result rows: python report.py"""

from mrl_experiments.cli.report import main

if __name__ == "__main__":
    main()
