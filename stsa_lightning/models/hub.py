"""Networks by name: those of the package, a file, a folder, or a repository of the Hugging Face hub.

On the hub they are a repository with `model.safetensors`, as `save_networks` writes it, and a model card. Nothing else
is ever fetched, and nothing in a repository is run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from stsa_lightning.models import BUNDLED
from stsa_lightning.models.checkpoint import load_networks, save_networks
from stsa_lightning.utils.errors import UserError, required
from stsa_lightning.utils.scratch import scratch_folder

FILE, CARD = "model.safetensors", "README.md"
_REPOSITORY = re.compile(r"([\w.-]+/[\w.-]+)(?:@([\w./-]+))?", re.ASCII)


def find_networks(source: str | Path | None = None) -> Path:
    """The file of some networks; one of the hub is fetched into its cache once, and not again unless it changed.

    Args:
        source: None: those that come with the package; a `.safetensors` or `.ckpt` file; a folder with
            `model.safetensors`, or with one such file of any name; "owner/name" or "owner/name@revision" on the hub.
            What exists here goes first.

    Raises:
        FileNotFoundError: neither here, nor a name of the hub.
        MissingPackageError: the hub is meant, and `huggingface_hub` is missing.
        UserError: a folder without networks, or with several; the hub has no such repository or is not to be reached.
    """
    if source is None:
        return BUNDLED
    path = Path(source)
    if path.is_file():
        return path
    if path.is_dir():
        return _in_folder(path)
    match = _REPOSITORY.fullmatch(str(source))
    if match is None or path.suffix in (".safetensors", ".ckpt"):
        raise FileNotFoundError(f"{source}: no such file or folder, and no name on the hub (owner/name)")
    return _fetched(match[1], match[2])


def _in_folder(folder: Path) -> Path:
    found = sorted(folder.glob("*.safetensors"))
    if (usual := folder / FILE) in found:
        return usual
    if len(found) != 1:
        names = ", ".join(path.name for path in found[:5]) or "none"
        raise UserError(f"{folder}: expected {FILE}, or one .safetensors file, found {names}; name the file itself")
    return found[0]


def _fetched(repository: str, revision: str | None) -> Path:
    hub = _hub()
    with _errors_in_words(repository, revision):
        return Path(hub.hf_hub_download(repository, FILE, revision=revision, endpoint=_endpoint()))


def push(
    checkpoint: str | Path,
    repository: str,
    *,
    private: bool = False,
    half: bool = False,
    licence: str | None = None,
    card: str | Path | None = None,
) -> str:
    """Put networks into a repository of the hub, made where it is not there; its address.

    Args:
        checkpoint: as for `load_networks`; what goes out is a safetensors file of the networks alone.
        repository: "owner/name".
        private: of a new repository.
        half: 16 bits a weight.
        licence: for the model card, such as "apache-2.0"; None: it does not say.
        card: a model card in place of the one that is made; the repository's own stays unless this is given.

    Raises:
        FileNotFoundError, UserError: as `load_networks`; the hub refuses.
        MissingPackageError: `huggingface_hub` is missing.
    """
    match = _REPOSITORY.fullmatch(repository)
    if match is None or match[2]:
        raise UserError(f"{repository}: expected owner/name")
    guidance, synthesis, meta = load_networks(checkpoint)
    text = (
        Path(card).read_text(encoding="utf-8") if card else model_card(repository, guidance, synthesis, meta, licence)
    )
    api = _hub().HfApi(endpoint=_endpoint())
    with scratch_folder("stsa-push-") as folder, _errors_in_words(repository, None):
        save_networks(folder / FILE, guidance, synthesis, meta, half=half)
        address = str(api.create_repo(repository, private=private, exist_ok=True))
        if card or not api.file_exists(repository, CARD):
            (folder / CARD).write_text(text, encoding="utf-8")
        api.upload_folder(repo_id=repository, folder_path=folder, commit_message="Networks for visual dubbing (STSA)")
    return address


def model_card(repository: str, guidance: Any, synthesis: Any, meta: dict[str, Any], licence: str | None = None) -> str:
    """Markdown that says what the networks are and how they are used, with the front matter that the hub reads."""
    front: dict[str, Any] = {
        "library_name": "stsa_lightning",
        "pipeline_tag": "video-to-video",
        "tags": ["visual-dubbing", "lip-sync", "talking-face", "stsa", "arxiv:2503.23039"],
    }
    if licence:
        front = {"license": licence, **front}
    millions = sum(p.numel() for network in (guidance, synthesis) for p in network.parameters()) / 1e6
    return f"""---
{yaml.safe_dump(front, sort_keys=False).strip()}
---

# {repository.partition("/")[2]}

Networks of STSA ([arXiv 2503.23039](https://arxiv.org/abs/2503.23039)) for visual dubbing: they re-render the mouth of
a video to match new speech.

| | |
|---|---|
| faces | {synthesis.face_size} x {synthesis.face_size} pixels, {synthesis.num_references} references |
| audio features | {meta["features"]}, windows of {meta["num_frames"]} frames |
| parameters | {millions:.1f} M |

```python
from stsa_lightning.dubbing import Dubber

Dubber.from_pretrained("{repository}").dub("me.mp4", "speech.wav", "out.mp4")
```

Trained on: say which footage, and whose. Measured: `stsa evaluate checkpoint`.

Dubbing puts words into people's mouths: ask the person, and say that a video was made so.
"""


def _hub() -> Any:
    return required("huggingface_hub", "the hub needs huggingface_hub: pip install 'stsa_lightning[hub]'")


def _endpoint() -> str | None:
    return os.environ.get("HF_ENDPOINT") or None


@contextmanager
def _errors_in_words(repository: str, revision: str | None) -> Iterator[None]:
    """What the hub's client raises, as a UserError that says what to do."""
    from huggingface_hub import errors

    named = repository + (f"@{revision}" if revision else "")
    try:
        yield
    except errors.EntryNotFoundError as error:  # the client's word for "not in the cache either" is one, too
        if isinstance(error, errors.LocalEntryNotFoundError):
            raise UserError(f"{named}: the hub is not to be reached, and it is not in the cache ({error})") from error
        raise UserError(f"{named}: has no {FILE}; was it made by `stsa weights push`?") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{named}: the hub has no such revision") from error
    except errors.GatedRepoError as error:
        raise UserError(f"{named}: ask for access on its page, then log in: hf auth login") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"{named}: the hub has no such repository, or it is private: hf auth login") from error
    except errors.HfHubHTTPError as error:
        raise UserError(f"{named}: the hub refuses ({error.server_message or error}); hf auth login?") from error
