"""The `cogni-billing` command, called in this process."""

from __future__ import annotations

import sys

import pytest
from attrs import frozen

from cogni_billing.cli import main
from cogni_billing.cli.app import console

URL_VARIABLE = "COGNI_BILLING_DATABASE_URL"


@frozen
class Ran:
    returncode: int
    stdout: str
    stderr: str


@frozen
class Run:
    """Calls the command, as from a shell with a width of its own."""

    monkeypatch: pytest.MonkeyPatch
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str, url: str | None = None, width: int = 160) -> Ran:
        with self.monkeypatch.context() as patch:
            patch.setattr(sys, "argv", ["cogni-billing", *arguments])
            patch.setattr(console, "width", width)  # it was made with the width of this process
            patch.delenv(URL_VARIABLE, raising=False)
            if url is not None:
                patch.setenv(URL_VARIABLE, url)
            with pytest.raises(SystemExit) as ended:
                main()
        shown = self.capsys.readouterr()
        assert isinstance(ended.value.code, int)
        return Ran(ended.value.code, shown.out, shown.err)
