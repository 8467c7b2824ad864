import pytest

pytest.importorskip("fastapi", reason="the dashboard's packages: pip install 'sia-runner[web]'")
