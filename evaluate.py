"""Score a captioner: `python evaluate.py RUN …` is `jaxcap evaluate RUN …`."""

from jaxcap.__main__ import main

if __name__ == "__main__":
    main("evaluate")
