"""Let the shipped suite show values in its failing asserts."""

from __future__ import annotations

import pytest

pytest.register_assert_rewrite("windlass.testing.conformance")
