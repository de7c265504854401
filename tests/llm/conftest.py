import pytest


@pytest.fixture(autouse=True)
def _no_keys(monkeypatch):
    """Tests own the environment: no key of the user's is ever sent anywhere."""
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID"):
        monkeypatch.delenv(name, raising=False)
