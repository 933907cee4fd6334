"""Train a captioner: `python train.py configs/NAME.py [--workdir DIR] [--any.option value]`."""

from jaxcap.devices.huge_pages import restart_with_huge_pages

if __name__ == "__main__":
    restart_with_huge_pages()
    from jaxcap.cli import train

    train()
