# Copyright 2025 the stsa_lightning authors. Licensed under the Apache License, Version 2.0; see LICENSE.
"""ComfyUI finds its nodes here: put this folder, or a link to it, into `ComfyUI/custom_nodes`."""

from .nodes import NODE_CLASS_MAPPINGS, NODE_DISPLAY_NAME_MAPPINGS

__all__ = ["NODE_CLASS_MAPPINGS", "NODE_DISPLAY_NAME_MAPPINGS"]
