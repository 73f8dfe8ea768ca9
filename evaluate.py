"""Evaluate stored embeddings: python evaluate.py run=mrl_resnet50_imagenet1k_s0 evaluation=knn"""

from mrl_experiments.cli.evaluate import main

if __name__ == "__main__":
    main()
