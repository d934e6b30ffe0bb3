"""The file inside a new DocumentReference."""

import base64
import binascii
from typing import Any

from .kinds import Resource
from .outcomes import Refused
from .store import File


def take_file(document: Resource) -> File:
    """Take the file out of a DocumentReference, which then lacks `attachment.data`."""
    attachment = _attachment(document["content"])
    data = attachment.pop("data")
    try:
        return File(attachment["contentType"], base64.b64decode(data, validate=True))
    except (binascii.Error, ValueError):
        raise Refused(422, "value", "content.attachment.data is not base64.") from None


def _attachment(content: Any) -> dict[str, Any]:
    match content:
        case [{"attachment": {"contentType": str(), "data": str()} as attachment}]:
            taken: dict[str, Any] = attachment
            return taken
        case _:
            # One content, no more: so Canvas documents it for creates.
            raise Refused(
                422, "required", "One content with attachment.contentType and attachment.data is required."
            )
