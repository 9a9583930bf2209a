"""A Hugging Face repository in the layout of an index; huggingface_hub (extra `hub`) knows its commits and uploads.

Files are read by our own client (`http.py`), of the one commit that the revision led to, so that what holds for an HTTP
index holds here: bounded, hashed, continued. A token goes to the hub alone, not where it redirects to.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import cached_property
from typing import Any, cast

from ..bundle.load import Bundle
from ..errors import IncompleteRunError, InvalidInputError, UsageError
from ..folder import Folder
from .http import HttpRemote, require_address
from .index import INDEX_NAME, Offer, described, index_bytes, require_no_other
from .remote import HUGGING_FACE, Stream

_ENDPOINT, _VARIABLE = "https://huggingface.co", "HF_ENDPOINT"
_ADDRESS = re.compile(r"hf://([\w.-]+/[\w.-]+)(?:@([\w.-]+))?", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}")


class HuggingFaceRemote:
    """See `Remote`."""

    def __init__(self, repository: str, revision: str) -> None:
        self.repository, self.revision = repository, revision
        self._endpoint = (os.environ.get(_VARIABLE) or _ENDPOINT).rstrip("/")
        try:
            require_address(self._endpoint)
        except UsageError as error:
            raise UsageError(f"${_VARIABLE} must be the https address of a hub ({error})") from error

    @classmethod
    def of(cls, address: str) -> HuggingFaceRemote:
        """The repository of `hf://OWNER/REPOSITORY[@REVISION]`; UsageError where an address is no such one."""
        found = _ADDRESS.fullmatch(address)
        if found is None:
            raise UsageError(f"{address!r}: must be {HUGGING_FACE}OWNER/REPOSITORY, or with @REVISION")
        return cls(found[1], found[2] or "main")

    def offer(self) -> Offer:
        """What `index.json` of the commit lists; a repository without one has none."""
        return self._files.offer() if INDEX_NAME in self._names else Offer({})

    def opened(self, path: str, start: int = 0) -> AbstractContextManager[Stream]:
        """A file of the commit."""
        return self._files.opened(path, start)

    def push(self, name: str, bundle: Bundle) -> bool:
        """One commit that adds the bundle's files and the index that names it."""
        models = dict(self.offer().models)
        with Folder(bundle.path) as folder:
            model = described(folder)
        require_no_other(models, name, model, f"{HUGGING_FACE}{self.repository}")
        if models.get(name) == model:
            return False
        from huggingface_hub import CommitOperationAdd

        models[name] = model
        added = [CommitOperationAdd(f"{name}/{file}", str(bundle.path / file)) for file in bundle.file_names]
        added.append(CommitOperationAdd(INDEX_NAME, index_bytes(models)))
        with self._errors():
            self._api.create_commit(
                self.repository,
                added,
                commit_message=f"Add {name} ({bundle.sha256[:12]})",
                revision=self.revision,
                parent_commit=self._commit,
            )
        return True

    @cached_property
    def _api(self) -> Any:
        try:
            from huggingface_hub import HfApi
        except ImportError as error:
            raise UsageError('huggingface_hub is not installed: pip install "sbldm-engine[hub]"') from error
        return HfApi(endpoint=self._endpoint, library_name="sbldm-engine")

    @cached_property
    def _info(self) -> Any:
        with self._errors():
            return self._api.model_info(self.repository, revision=self.revision)

    @property
    def _commit(self) -> str:
        commit = self._info.sha
        if not isinstance(commit, str) or not _COMMIT.fullmatch(commit):
            raise InvalidInputError(f"{self._endpoint}: names no commit of {self.repository}")
        return commit

    @property
    def _names(self) -> set[str]:
        return {file.rfilename for file in self._info.siblings or ()}

    @cached_property
    def _files(self) -> HttpRemote:
        from huggingface_hub import get_token

        token = get_token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        return HttpRemote(f"{self._endpoint}/{self.repository}/resolve/{self._commit}", headers)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        from huggingface_hub.errors import HfHubHTTPError, RepositoryNotFoundError, RevisionNotFoundError

        # HTTPError of the client that this version is built on
        client_error = cast("type[Exception]", HfHubHTTPError.__bases__[0])
        shown = f"{HUGGING_FACE}{self.repository}@{self.revision}"
        try:
            yield
        except (RepositoryNotFoundError, RevisionNotFoundError) as error:
            raise UsageError(
                f"{shown}: is not there, or you may not see it; `hf repos create` makes a repository, public or "
                "private as you choose, and `hf auth login` tells who you are"
            ) from error
        except HfHubHTTPError as error:
            code = error.response.status_code
            told = f"{shown}: the hub says {code} ({error.server_message or 'no reason'})"
            if code == 412:
                told += "; the repository has changed meanwhile, push again"
            kind = IncompleteRunError if code >= 500 or code in (412, 429) else InvalidInputError
            raise kind(told) from error
        except client_error as error:
            raise IncompleteRunError(
                f"{shown}: {self._endpoint} cannot be reached ({error}); try again later, or name another hub by "
                f"${_VARIABLE}"
            ) from error
