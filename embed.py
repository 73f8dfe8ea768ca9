"""Embed data splits with trained runs: python embed.py run=mrl_resnet10t_kanji1k_s0"""

from mrl_experiments.cli.embed import main

if __name__ == "__main__":
    main()
