"""Video + speech -> dubbed video."""

from stsa_lightning.dubbing.draw import choose_device, draw_faces
from stsa_lightning.dubbing.dubber import Dubber
from stsa_lightning.dubbing.faces import Faces, find_faces
from stsa_lightning.dubbing.report import DubError, DubReport
from stsa_lightning.dubbing.scene import Scene, block_size
from stsa_lightning.dubbing.schedule import Schedule, make_schedule, ping_pong

__all__ = [
    "DubError",
    "DubReport",
    "Dubber",
    "Faces",
    "Scene",
    "Schedule",
    "block_size",
    "choose_device",
    "draw_faces",
    "find_faces",
    "make_schedule",
    "ping_pong",
]
