"""The code of `docs/functional_jax.md` runs, and its assertions hold."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "functional_jax.md"


def test_the_example_runs() -> None:
    blocks = re.findall(r"^```python\n(.*?)^```", PAGE.read_text("utf-8"), re.MULTILINE | re.DOTALL)
    assert len(blocks) == 4
    program = "\n".join(blocks)
    assert program.count("assert") == 5
    exec(compile(program, str(PAGE), "exec"), {"__name__": "page"})
