// One DPM-Solver++(2M) step in one pass; the arithmetic and its coefficients are dpmpp.py's. `previous_x0` holds the x0
// of the step before and receives this step's. Launch: (groups of 8, samples).
#include "state.cuh"

template <class T>
__device__ void dpmpp_2m_step(float* state, float* previous_x0, const T* prediction, T* copy, float* timestep,
                              unsigned* failed, unsigned size, unsigned samples, unsigned guided, float next_timestep,
                              const PredictionRule& rule, float from_sample, float from_x0, float from_previous_x0) {
    const DenoiserInput<T> input{copy, timestep, samples, size, guided != 0};
    input.set_timestep(next_timestep);
    for (unsigned slot = blockIdx.y; slot < samples; slot += gridDim.y) {
        for (unsigned group = blockIdx.x * blockDim.x + threadIdx.x; group < (size + 7) / 8;
             group += gridDim.x * blockDim.x) {
            const unsigned first = 8 * group, count = size - first < 8 ? size - first : 8;
            const size_t at = size_t(slot) * size + first;
            float x[8], x0[8];
            load8(state + at, count, x);
            predict_x0(prediction, input, slot, first, count, rule, x, x0);
#pragma unroll
            for (int k = 0; k < 8; ++k) x[k] = from_x0 * x0[k] + from_sample * x[k];
            if (from_previous_x0 != 0.0f) {
                float before[8];
                load8(previous_x0 + at, count, before);
#pragma unroll
                for (int k = 0; k < 8; ++k) x[k] += from_previous_x0 * before[k];
            }
            flag_failure(failed, slot, x);
            store8(previous_x0 + at, count, x0);
            store8(state + at, count, x);
            input.write(slot, first, count, x);
        }
    }
}

#define DPMPP_2M_STEP(suffix, T) \
    extern "C" __global__ void __launch_bounds__(256) dpmpp_2m_step_##suffix( \
        float* state, float* previous_x0, const T* prediction, T* copy, float* timestep, unsigned* failed, \
        unsigned size, unsigned samples, unsigned guided, float next_timestep, float guidance, float x0_from_sample, \
        float x0_from_prediction, float clip, float from_sample, float from_x0, float from_previous_x0) { \
        dpmpp_2m_step<T>(state, previous_x0, prediction, copy, timestep, failed, size, samples, guided, \
                         next_timestep, {guidance, x0_from_sample, x0_from_prediction, clip}, from_sample, from_x0, \
                         from_previous_x0); \
    } \
    KERNEL_ENTRY(dpmpp_2m_step_##suffix)

DPMPP_2M_STEP(f32, float)
DPMPP_2M_STEP(f16, F16)
DPMPP_2M_STEP(bf16, BF16)
