#!/bin/bash
# From nothing to a bundle, every stage; stopped at any time, the same command goes on where it was.
#   examples/train_bundles.sh                                     phantoms alone: no patient in it
#   REAL=my_scans examples/train_bundles.sh                       then trained on with real scans beside phantoms
#   REAL=my_scans MASKS=masks.npz examples/train_bundles.sh       more expert masks for the mask stage
# REAL is a folder as `sbldm-engine data check` takes it. What is trained on share-alike masks has to carry their licence.
set -euo pipefail

work=${WORK:-runs}          # everything is made in here
phantoms=${PHANTOMS:-320}   # of the first bundle, and beside the real scans
held_out=${HELD_OUT:-2}     # real scans that are looked at and never trained on
preset=${PRESET:-glioma}
workers=${WORKERS:-2}

mkdir -p "$work"
if [ ! -d "$work/phantoms" ]; then
    rm -rf "$work/phantoms.part"
    sbldm-engine phantom --count "$phantoms" --seed 2021 --out "$work/phantoms.part" --workers "$workers"
    mv "$work/phantoms.part" "$work/phantoms"
fi
sbldm-engine train --preset "$preset" --data "$work/phantoms" --out "$work/phantom" --held-out 16 --seed 1 \
    --workers "$workers"
[ -d "$work/phantom.bundle" ] || sbldm-engine export --checkpoint "$work/phantom" --out "$work/phantom.bundle" \
    --store fp16 --id phantom --source phantom --data "$phantoms phantoms, no patient" --licence "Apache-2.0"

if [ -z "${REAL:-}" ]; then exit 0; fi
sbldm-engine train --preset "$preset" --data "$REAL" --out "$work/real" --held-out "$held_out" --seed 2 \
    --add-phantoms "$phantoms" ${MASKS:+--masks "$MASKS"} --start-from "$work/phantom" \
    --steps autoencoder=8000 --steps mask=2000 --steps denoiser=6000 --workers "$workers"
[ -d "$work/real.bundle" ] || sbldm-engine export --checkpoint "$work/real" --out "$work/real.bundle" \
    --store fp16 --data "${DATA_NOTE:-real scans and phantoms}" --licence "${LICENCE:-not stated}"
