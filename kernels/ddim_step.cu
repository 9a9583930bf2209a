// One DDIM step in one pass; the arithmetic and its coefficients are ddim.py's. Launch: (groups of 8, samples).
#include "state.cuh"

template <class T>
__device__ void ddim_step(float* state, const T* prediction, T* copy, float* timestep, unsigned* failed,
                          const unsigned* seed, const unsigned* slots, unsigned size, unsigned samples,
                          unsigned guided, unsigned draw, float next_timestep, const PredictionRule& rule,
                          float from_sample, float from_x0, float from_noise) {
    const DenoiserInput<T> input{copy, timestep, samples, size, guided != 0};
    input.set_timestep(next_timestep);
    for (unsigned slot = blockIdx.y; slot < samples; slot += gridDim.y) {
        const NoiseSource source(seed, slots, slot, draw);
        for (unsigned group = blockIdx.x * blockDim.x + threadIdx.x; group < (size + 7) / 8;
             group += gridDim.x * blockDim.x) {
            const unsigned first = 8 * group, count = size - first < 8 ? size - first : 8;
            float x[8], x0[8];
            load8(state + size_t(slot) * size + first, count, x);
            predict_x0(prediction, input, slot, first, count, rule, x, x0);
#pragma unroll
            for (int k = 0; k < 8; ++k) x[k] = from_x0 * x0[k] + from_sample * x[k];
            if (from_noise != 0.0f) {
                float z[8];
                normal8(source, group, z);
#pragma unroll
                for (int k = 0; k < 8; ++k) x[k] += from_noise * z[k];
            }
            flag_failure(failed, slot, x);
            store8(state + size_t(slot) * size + first, count, x);
            input.write(slot, first, count, x);
        }
    }
}

#define DDIM_STEP(suffix, T) \
    extern "C" __global__ void __launch_bounds__(256) ddim_step_##suffix( \
        float* state, const T* prediction, T* copy, float* timestep, unsigned* failed, const unsigned* seed, \
        const unsigned* slots, unsigned size, unsigned samples, unsigned guided, unsigned draw, float next_timestep, \
        float guidance, float x0_from_sample, float x0_from_prediction, float clip, float from_sample, float from_x0, \
        float from_noise) { \
        ddim_step<T>(state, prediction, copy, timestep, failed, seed, slots, size, samples, guided, draw, \
                     next_timestep, {guidance, x0_from_sample, x0_from_prediction, clip}, from_sample, from_x0, \
                     from_noise); \
    } \
    KERNEL_ENTRY(ddim_step_##suffix)

DDIM_STEP(f32, float)
DDIM_STEP(f16, F16)
DDIM_STEP(bf16, BF16)
