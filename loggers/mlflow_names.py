"""Conversion of tags to names that MLflow allows, and back."""

from __future__ import annotations

import hashlib
import re

LONGEST = 250  # MLflow refuses longer names, and with them the whole batch of metrics


def mlflow_name(tag: str) -> str:
    """A tag as Lightning and MLflow accept it: characters outside ``A-Za-z0-9_/. -`` become ``-u<code>-``.

    Nothing is lost: :func:`tag_of_mlflow_name` gives the tag back. A name of more than 250 characters is cut and ends
    in a digest of the whole.

    >>> mlflow_name("probe/accuracy/conv1@2"), mlflow_name("probe/accuracy/layer1.0.conv1")
    ('probe/accuracy/conv1-u40-2', 'probe/accuracy/layer1.0.conv1')
    """
    escaped = re.sub(r"[^a-zA-Z0-9_/. -]|-(?=u)", _escape, tag)
    # MLflow treats names as paths: an empty part, "." and ".." would lead elsewhere.
    escaped = re.sub(r"(?<![^/])\.|^/|/(?=/|$)", _escape, escaped)
    if len(escaped) <= LONGEST:
        return escaped
    digest = hashlib.sha1(tag.encode("utf-8")).hexdigest()[:12]
    return f"{escaped[: LONGEST - len(digest) - 1]}-{digest}"


def tag_of_mlflow_name(name: str) -> str:
    """The tag that a name in MLflow stands for.

    >>> tag_of_mlflow_name("probe/accuracy/conv1-u40-2")
    'probe/accuracy/conv1@2'
    """
    return re.sub(r"-u([0-9a-f]+)-", lambda found: chr(int(found[1], 16)), name)


def _escape(found: re.Match[str]) -> str:
    return f"-u{ord(found.group()):x}-"
