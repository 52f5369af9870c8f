"""Settings of the publish stage."""

from typing import Literal

from pydantic import Field

from infinitedub.stages.settings import Decides, Settings


class PublishSettings(Settings):
    """Where films are delivered, and which files beside them."""

    folder: Decides[str] = Field(pattern=r"^[A-Za-z0-9_=,-][A-Za-z0-9._=,-]*(/[A-Za-z0-9_=,-][A-Za-z0-9._=,-]*)*$")
    """Folder under the storage root; each point of a sweep uses a subfolder of it."""

    comparison: Decides[Literal["none", "side_by_side"]]
    """side_by_side: a second film with the source on the left and the dub on the right."""
