"""The page of configuration keys."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from trainer.cli import main
from trainer.config import TrainConfig, reference
from trainer.config.keys import GROUPS

PAGE = Path(__file__).parents[3] / "docs" / "training-configuration.md"


def test_the_page_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["--reference"])
    assert ended.value.code == 0
    again = "snac-trainer --reference > docs/training-configuration.md"
    assert PAGE.read_text("utf-8") == capsys.readouterr().out, again


def test_every_key_is_on_the_page_once_and_described() -> None:
    listed = re.findall(r"^\| `(\w+)` \|", reference.page(), re.MULTILINE)
    assert sorted(listed) == sorted(TrainConfig.model_fields)
    for name, field in TrainConfig.model_fields.items():
        assert (field.description or "").endswith("."), name
    assert not GROUPS.keys() & TrainConfig.model_fields.keys()
