"""Trains a captioner: `python train.py configs/NAME.py [--workdir DIR] [--any.option value]`."""

from jaxcap.cli import train

if __name__ == "__main__":
    train()
