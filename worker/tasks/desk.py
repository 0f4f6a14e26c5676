"""What every render job of one consumer works with. Made once at the entry point and passed down."""

from dataclasses import dataclass, field

from models.database import Database
from worker.fetching import FetchLimits, InputPlaces
from worker.group.link import GroupLink
from worker.media.limits import MediaLimits
from worker.storage import Storage
from worker.tasks.attempt_directories import AttemptDirectories
from worker.tasks.checkpointing import CheckpointRules
from worker.tasks.drain import Drain


@dataclass(frozen=True)
class RenderDesk:
    database: Database
    storage: Storage
    places: InputPlaces
    link: GroupLink
    node_name: str
    preset: str
    attempts: AttemptDirectories
    drain: Drain
    fetch_limits: FetchLimits = field(default_factory=FetchLimits)
    media_limits: MediaLimits = field(default_factory=MediaLimits)
    checkpoints: CheckpointRules = field(default_factory=CheckpointRules)
