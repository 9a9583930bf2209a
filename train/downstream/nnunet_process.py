"""nnU-Net's own process: python -m sbldm.train.downstream.nnunet_process train|predict FOLDER; see `nnunet.py`.

Its workers import this module again, so that nnU-Net itself is imported where it is used.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

if TYPE_CHECKING:
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer

DATASET_ID, DATASET = 1, "Dataset001_downstream"
EPOCH = 250  # steps, nnU-Net's
CONFIGURATION = "3d_fullres"


def _trainer(folder: Path) -> nnUNetTrainer:
    """nnU-Net's trainer on all cases of the data set."""
    import numpy as np
    import torch
    from nnunetv2.training.nnUNetTrainer.nnUNetTrainer import nnUNetTrainer
    from torch import nn

    class OwnSchedule(nnUNetTrainer):
        """With PyTorch's polynomial schedule: that of nnU-Net 2.5 does not run under PyTorch 2.7 or later."""

        def configure_optimizers(  # pyright: ignore[reportIncompatibleMethodOverride]
            self,
        ) -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LRScheduler]:
            weights = cast(nn.Module, self.network).parameters()
            optimizer = torch.optim.SGD(
                weights, self.initial_lr, weight_decay=self.weight_decay, momentum=0.99, nesterov=True
            )
            return optimizer, torch.optim.lr_scheduler.PolynomialLR(optimizer, self.num_epochs, power=0.9)

    plans, about = (
        json.loads(path.read_text("utf-8"))
        for path in (folder / "preprocessed" / DATASET / "nnUNetPlans.json", folder / "raw" / DATASET / "dataset.json")
    )
    settings = json.loads((folder / "settings.json").read_text("utf-8"))
    torch.manual_seed(settings["seed"])
    np.random.seed(settings["seed"])
    device = torch.device(settings["device"])
    trainer = OwnSchedule(plans, CONFIGURATION, fold="all", dataset_json=about, device=device)  # pyright: ignore[reportArgumentType]
    trainer.num_epochs = max(1, settings["steps"] // EPOCH)
    trainer.num_iterations_per_epoch = settings["steps"] // trainer.num_epochs
    trainer.num_val_iterations_per_epoch = 1  # on training cases: it chooses nothing
    return trainer


def _train(folder: Path) -> None:
    from nnunetv2.experiment_planning.plan_and_preprocess_api import extract_fingerprints, plan_experiments, preprocess

    from ...engine.processor import available_threads

    threads = available_threads()
    if not (folder / "prepared").is_file():
        extract_fingerprints([DATASET_ID], num_processes=threads)
        plan_experiments([DATASET_ID])
        preprocess([DATASET_ID], configurations=[CONFIGURATION], num_processes=[threads])
        (folder / "prepared").touch()
    trainer = _trainer(folder)
    final, latest = (Path(trainer.output_folder) / f"checkpoint_{name}.pth" for name in ("final", "latest"))
    if final.is_file():
        return
    trainer.initialize()
    if latest.is_file():
        trainer.load_checkpoint(str(latest))
    trainer.run_training()


def _predict(folder: Path) -> None:
    import numpy as np
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor
    from torch import nn

    trainer = _trainer(folder)
    trainer.initialize()
    trainer.load_checkpoint(str(Path(trainer.output_folder) / "checkpoint_final.pth"))
    trainer.set_deep_supervision_enabled(False)
    network = cast(nn.Module, trainer.network).eval()
    predictor = nnUNetPredictor(device=trainer.device, allow_tqdm=False)
    predictor.manual_initialization(
        network, trainer.plans_manager, trainer.configuration_manager, None, trainer.dataset_json,
        type(trainer).__name__, trainer.inference_allowed_mirroring_axes,
    )  # fmt: skip
    predictor.list_of_parameters = [network.state_dict()]
    reader = trainer.plans_manager.image_reader_writer_class()
    for first in sorted((folder / "tests").glob("*_0000.nii.gz")):
        name = first.name.removesuffix("_0000.nii.gz")
        channels = sorted(str(path) for path in first.parent.glob(f"{name}_*.nii.gz"))
        image, about = reader.read_images(channels)
        label = predictor.predict_single_npy_array(image, about)
        np.save(first.parent / f"{name}.npy", np.asarray(label, np.uint8).transpose(2, 1, 0))


if __name__ == "__main__":
    {"train": _train, "predict": _predict}[sys.argv[1]](Path(sys.argv[2]))
