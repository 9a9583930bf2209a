// What the kernels of the sampling loop share: the guided x0, and the state's copy that the denoiser reads.
#pragma once
#include "philox.cuh"

// The batch as the denoiser sees it: `rows` rows of `size` elements, the unconditional half after the conditional one.
template <class T>
struct DenoiserInput {
    T* sample;        // (samples or 2 * samples, size)
    float* timestep;  // (samples or 2 * samples,)
    unsigned samples, size;
    bool guided;

    __device__ __forceinline__ void write(unsigned slot, unsigned first, unsigned count, const float (&x)[8]) const {
        store8(sample + size_t(slot) * size + first, count, x);
        if (guided) store8(sample + size_t(samples + slot) * size + first, count, x);
    }
    __device__ __forceinline__ void set_timestep(float value) const {
        if (blockIdx.x != 0 || blockIdx.y != 0) return;
        for (unsigned row = threadIdx.x; row < (guided ? 2 * samples : samples); row += blockDim.x)
            timestep[row] = value;
    }
};

struct PredictionRule {
    float guidance, x0_from_sample, x0_from_prediction, clip;
};

// x0 of eight elements; a comparison with NaN is false, so that NaN passes the clipping.
template <class T>
__device__ __forceinline__ void predict_x0(const T* prediction, const DenoiserInput<T>& input, unsigned slot,
                                           unsigned first, unsigned count, const PredictionRule& rule,
                                           const float (&x)[8], float (&x0)[8]) {
    load8(prediction + size_t(slot) * input.size + first, count, x0);
    if (input.guided) {
        float base[8];
        load8(prediction + size_t(input.samples + slot) * input.size + first, count, base);
#pragma unroll
        for (int k = 0; k < 8; ++k) x0[k] = base[k] + rule.guidance * (x0[k] - base[k]);
    }
#pragma unroll
    for (int k = 0; k < 8; ++k) {
        const float value = rule.x0_from_prediction * x0[k] + rule.x0_from_sample * x[k];
        x0[k] = value > rule.clip ? rule.clip : value < -rule.clip ? -rule.clip : value;
    }
}

// All threads that see a value that is not finite store the same 1.
__device__ __forceinline__ void flag_failure(unsigned* failed, unsigned slot, const float (&x)[8]) {
    if (!all_finite(x)) failed[slot] = 1;
}
