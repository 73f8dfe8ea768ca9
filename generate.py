"""Continue a text with a trained language model: python generate.py run=mrl_e_gpt_tiny_python_stdlib_s0"""

from mrl_experiments.cli.generate import main

if __name__ == "__main__":
    main()
