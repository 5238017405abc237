"""Video + speech -> dubbed video."""

from stsa_lightning.dubbing.dialogue import dub_segments
from stsa_lightning.dubbing.dubber import Dubber, Resolution, largest_side
from stsa_lightning.dubbing.face_track import Faces, find_faces
from stsa_lightning.dubbing.live import LiveFrame, Stream, paced
from stsa_lightning.dubbing.people_report import find_people
from stsa_lightning.dubbing.person import Person
from stsa_lightning.dubbing.renderer import Renderer, block_size
from stsa_lightning.dubbing.report import DubError, DubReport
from stsa_lightning.dubbing.schedule import Schedule, make_schedule, ping_pong
from stsa_lightning.dubbing.segments import Segment, read_segments
from stsa_lightning.media.in_memory import Pictures, Sound
from stsa_lightning.utils.device import choose_device

__all__ = [
    "DubError",
    "DubReport",
    "Dubber",
    "Faces",
    "LiveFrame",
    "Person",
    "Pictures",
    "Renderer",
    "Resolution",
    "Schedule",
    "Segment",
    "Sound",
    "Stream",
    "block_size",
    "choose_device",
    "dub_segments",
    "find_faces",
    "find_people",
    "largest_side",
    "make_schedule",
    "paced",
    "ping_pong",
    "read_segments",
]
