"""What every benchmark that trains on a processor tells TRL's trainers: float32, nothing saved, logged or reported."""

from typing import Any

__all__ = ["ON_CPU"]

ON_CPU: dict[str, Any] = {
    "bf16": False,
    "use_cpu": True,
    "dataloader_pin_memory": False,
    "report_to": "none",
    "save_strategy": "no",
    "logging_strategy": "no",
    "disable_tqdm": True,
}
