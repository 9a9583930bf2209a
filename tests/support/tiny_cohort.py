"""A cohort of a few small scans and a preset whose stages take a step or two: whole trainings in seconds."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import yaml
from sbldm.train.config import AnySystem, SystemConfig, config_to_json

from tests.support.scans import affine, arrays, write_case
from tests.support.tiny import tiny_system_config

SMALL_SHAPE, SMALL_SPACING = (24, 24, 16), (8.0, 8.0, 9.6)  # mm
PLACES = ((32.0, 20.0, 10.0), (-30.0, 25.0, 5.0), (20.0, -30.0, -10.0), (-25.0, -20.0, 15.0))  # of tumours, mm


def write_small_cohort(folder: Path, cases: int = 3) -> Path:
    """Cases of 24 x 24 x 16 voxels over the usual field of view, each with its tumour elsewhere."""
    for number in range(cases):
        case = arrays(SMALL_SHAPE, SMALL_SPACING, tumour=PLACES[number % len(PLACES)])
        write_case(folder, f"S{number}", case, affine(SMALL_SPACING, SMALL_SHAPE))
    return folder


def short_config(steps: int = 2, preset: str = "phantom") -> SystemConfig:
    """The tiny system of a preset on 16 x 16 x 8 voxels with stages of `steps` steps."""
    config = tiny_system_config(preset)
    stages = {
        name: dataclasses.replace(stage, steps=steps, batch_size=2, warmup_steps=1, learning_rate=1e-3)
        for name, stage in config.stages.items()
    }
    return dataclasses.replace(config, stages=stages)


def write_preset(config: AnySystem, path: Path) -> Path:
    """A configuration as the YAML file that `--preset` takes."""
    path.write_text(yaml.safe_dump(json.loads(json.dumps(config_to_json(config)))), encoding="utf-8")
    return path
