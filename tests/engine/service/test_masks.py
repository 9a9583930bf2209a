"""A job around uploaded masks, which come back voxel for voxel under the names that the client gave them."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import nibabel as nib
import numpy as np
from sbldm.engine.bundle.load import Bundle
from sbldm.engine.service.app import create_app
from starlette.testclient import TestClient

from tests.support.service import bearer, ended, service_of


def test_images_around_uploaded_masks(tiny_mask_first_bundle: Bundle, tmp_path: Path) -> None:
    grid, jobs = tiny_mask_first_bundle.manifest.grid, tmp_path / "jobs"
    label = np.zeros(grid.shape, np.uint8)
    label[8:13, 14:20, 5:9] = 2
    label[9:12, 15:18, 6:8] = 4
    label[10, 15, 6] = 1
    service, _ = service_of(tiny_mask_first_bundle.path, jobs)
    with service:
        client = TestClient(create_app(service), headers=bearer(jobs))
        assert "masks" in client.get("/v1/models").json()[0]["kinds"]
        job = client.post("/v1/jobs", json={"kind": "masks", "steps": 2, "name_by": "id"}).json()
        assert (job["state"], job["samples"]) == ("waiting", None)
        place = f"/v1/jobs/{job['id']}"
        assert client.post(f"{place}/start").json() == {"error": "still to be uploaded: at least one mask"}
        for name in ("left", "right"):
            body = nib.Nifti1Image(label, grid.affine).to_bytes()
            assert client.put(f"{place}/inputs/{name}", content=body).status_code == 200
        assert client.post(f"{place}/start").status_code == 200
        status = ended(client, job["id"])
        assert (status["state"], status["samples"], status["done"]) == ("done", 2, 2), status
        rows = csv.DictReader(io.StringIO(client.get(f"{place}/files/manifest.csv").text))
        assert [row["id"] for row in rows] == ["left", "right"]
        (tmp_path / "seg.nii.gz").write_bytes(client.get(f"{place}/files/sbldm-left/sbldm-left_seg.nii.gz").content)
        assert np.array_equal(np.asarray(nib.load(tmp_path / "seg.nii.gz").dataobj), label)
