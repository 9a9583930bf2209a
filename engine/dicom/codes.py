"""The codes of tissues: PS3.16, CID 7168 "Brain Lesion Segmentation Type With Necrosis"; CID 7159 for a whole tumour.

CID 7168 has necrosis (for non-enhancing tumour, too) and oedema of SNOMED CT; for what enhances it takes the code of
the NCI Thesaurus, SNOMED CT has none there.
"""

from __future__ import annotations

from collections.abc import Mapping

from pydicom.sr.codedict import codes
from pydicom.sr.coding import Code

NECROSIS: Code = codes.SCT.Necrosis  # 6574001
OEDEMA: Code = codes.SCT.Edema  # 79654002
ENHANCING: Code = codes.NCIt.EnhancingLesion  # C113842
NEOPLASM: Code = codes.SCT.Neoplasm  # 108369006, CID 7159

ABNORMAL: Code = codes.SCT.MorphologicallyAbnormalStructure  # 49755003, CID 7150
BRAIN: Code = codes.SCT.Brain  # 12738006
PROCESSING: Code = codes.DCM.ProcessingEquipment  # 109102, CID 7005
ARTIFICIAL_INTELLIGENCE: Code = codes.DCM.ArtificialIntelligence  # 123110, CID 7162

TISSUES: Mapping[str, Code] = {"ncr": NECROSIS, "ed": OEDEMA, "et": ENHANCING}
"""Class name of a bundle -> property type; any other class is a neoplasm."""
COLOURS: Mapping[str, tuple[int, int, int]] = {"ncr": (222, 73, 104), "ed": (72, 187, 120), "et": (250, 204, 68)}
"""RGB of the segments, those of previews."""
