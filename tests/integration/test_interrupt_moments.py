"""A signal at any moment: exit 130, nothing left running, what was recorded readable and named.

Here are some moments; `scripts/interrupts.py` takes as many as it is asked for.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from helpers.moments import ORDER, interrupt_at


@pytest.mark.timeout(120)
@pytest.mark.parametrize("moment", range(3 * len(ORDER)))
def test_a_moment(tmp_path: Path, moment: int) -> None:
    assert interrupt_at(tmp_path, moment) in (130, 0, 1, 4)
