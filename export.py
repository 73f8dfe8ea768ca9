"""Write a run for use elsewhere: python export.py run=mrl_resnet10t_digits_s0 format=hub"""

from mrl_experiments.cli.export import main

if __name__ == "__main__":
    main()
