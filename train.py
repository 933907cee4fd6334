"""Train a captioner: `python train.py CONFIG …` is `jaxcap train CONFIG …`."""

from jaxcap.__main__ import main

if __name__ == "__main__":
    main("train")
