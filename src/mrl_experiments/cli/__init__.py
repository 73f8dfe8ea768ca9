"""The commands: each composes a configuration and calls one function.

`mrl-train` runs `cli/train.py`, and so does `python train.py` in a checkout. Nothing that takes long to
import is imported before the options are known to fit.
"""
