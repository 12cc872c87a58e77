"""Caches of its own for every test that loads a source."""

import datasets
import pytest


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("datasets"))
    monkeypatch.setenv("DISTILL_HUB_CACHE", str(tmp_path_factory.mktemp("cache")))
