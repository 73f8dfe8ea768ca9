"""Train one nested representation: python train.py model=resnet50 loss=mrl"""

from mrl_experiments.cli.train import main

if __name__ == "__main__":
    main()
