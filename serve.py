"""Serve a run over HTTP: python serve.py run=mrl_resnet10t_digits_s0 index=digits-index split=train"""

from mrl_experiments.cli.serve import main

if __name__ == "__main__":
    main()
