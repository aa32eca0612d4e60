"""A folder in place of the hub, for uploads of the Trainer."""

import shutil
import types
from concurrent.futures import Future
from pathlib import Path

import pytest
import transformers
from huggingface_hub.utils import filter_repo_objects

__all__ = ["trainer_hub"]


@pytest.fixture
def trainer_hub(tmp_path, monkeypatch):
    """The folder that gets what a Trainer uploads. A repository of the hub has a folder of its name in it."""
    folder = tmp_path / "hub"

    class Hub:
        def create_repo(self, repo_id, **kwargs):
            return types.SimpleNamespace(repo_id=repo_id)

        def upload_folder(self, folder_path, repo_id, ignore_patterns=None, **kwargs):
            names = [path.relative_to(folder_path) for path in Path(folder_path).rglob("*") if path.is_file()]
            for name in filter_repo_objects(map(str, names), ignore_patterns=ignore_patterns):
                target = folder / repo_id / name
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(Path(folder_path, name), target)
            done = Future()
            done.set_result(None)
            return done

    if hasattr(transformers.trainer, "hf_api"):
        monkeypatch.setattr(transformers.trainer, "hf_api", Hub)
    else:  # before transformers 5.10
        for name in ("create_repo", "upload_folder"):
            monkeypatch.setattr(transformers.trainer, name, getattr(Hub(), name))
    return folder
