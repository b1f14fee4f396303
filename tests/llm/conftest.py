from llm_fixtures import generate, no_keys, server, short_waits  # noqa: F401
