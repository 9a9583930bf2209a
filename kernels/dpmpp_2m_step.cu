// One DPM-Solver++(2M) step in one pass; the arithmetic is dpmpp.py's. `previous_x0` holds the x0 of the step before and
// receives this step's. Launch: (groups of 8, samples).
#include "state.cuh"

extern "C" __global__ void __launch_bounds__(256) dpmpp_2m_step(const StepParameters p) {
    set_timestep(p);
    for (unsigned slot = blockIdx.y; slot < p.samples; slot += gridDim.y) {
        for (unsigned group = blockIdx.x * blockDim.x + threadIdx.x; group < (p.size + 7) / 8;
             group += gridDim.x * blockDim.x) {
            const unsigned first = 8 * group, count = p.size - first < 8 ? p.size - first : 8;
            const size_t at = size_t(slot) * p.size + first;
            float x[8], x0[8];
            load8(p.state + at, count, x);
            predict_x0(p, slot, first, count, x, x0);
#pragma unroll
            for (int k = 0; k < 8; ++k) x[k] = p.from_x0 * x0[k] + p.from_sample * x[k];
            if (p.from_previous_x0 != 0.0f) {
                float before[8];
                load8(p.previous_x0 + at, count, before);
#pragma unroll
                for (int k = 0; k < 8; ++k) x[k] += p.from_previous_x0 * before[k];
            }
            flag_failure(p, slot, x);
            store8(p.previous_x0 + at, count, x0);
            store8(p.state + at, count, x);
            write_sample(p, slot, first, count, x);
        }
    }
}
KERNEL_ENTRY(dpmpp_2m_step)
