"""Where networks run."""

from __future__ import annotations

import torch

from stsa_lightning.utils.errors import UserError


def choose_device(name: str | torch.device) -> torch.device:
    """The named device; the best there is for `auto`.

    Raises:
        UserError: no such device, or not on this machine.
    """
    if str(name) != "auto":
        try:
            device = torch.device(name)
            torch.empty(1, device=device)
        except (RuntimeError, AssertionError) as error:
            raise UserError(f"device {name}: not on this machine; choose cpu, or auto for the best there is") from error
        return device
    if torch.cuda.is_available():
        return torch.device("cuda")
    return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
