"""Which settings of a catalogd are refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from reedbed.catalog.config import CatalogdSettings
from reedbed.common.errors import InvalidArgument


def test_defaults_are_those_of_the_design() -> None:
    settings = CatalogdSettings(Path("/d"))
    assert (settings.host, settings.port, settings.down_after_s, settings.out_after_s) == ("127.0.0.1", 7300, 5, 600)
    assert (settings.delete_grace_s, settings.horizon_lag_s) == (86400, 900)
    assert CatalogdSettings(Path("/d"), delete_grace_s=0, short_grace=True).delete_grace_s == 0


@pytest.mark.parametrize(
    "fields",
    [
        {"port": 70000},
        {"port": -1},
        {"level": "planet"},
        {"default_profile": "rs-40-1"},
        {"down_after_s": 0.0},
        {"out_after_s": 6.0},
        {"delete_grace_s": 60.0},
        {"delete_grace_s": -1.0, "short_grace": True},
        {"horizon_lag_s": 0.0},
        {"log_keep": 0},
        {"redo_keep": 0},
        {"tls_cert": Path("/c")},
    ],
)
def test_settings_that_do_not_fit_are_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(InvalidArgument):
        CatalogdSettings(Path("/d"), **fields)
