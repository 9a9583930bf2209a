// What the kernels of the sampling loop share: their parameters, the guided x0, the state's copy for the denoiser.
#pragma once
#include "philox.cuh"

// The loop's arrays for `samples` batch slots of `size` latent elements each, and one step; calls.py's STEP. Where
// `guided`, the denoiser sees 2 * samples rows, the unconditional half after the conditional one.
struct StepParameters {
    float* state;             // (samples, size)
    float* previous_x0;       // (samples, size); dpmpp_2m_step only
    const float* prediction;  // (rows, size)
    float* sample;            // (rows, size): the copy that the denoiser reads
    float* timestep;          // (rows,)
    unsigned* failed;         // (samples,): 1 where a state was not finite
    const unsigned* seed;     // (2,): low, high
    const unsigned* slots;    // (samples, 4): sample low, sample high, draw offset, unused
    unsigned size, samples, guided, draw;
    float next_timestep, guidance;
    float x0_from_sample, x0_from_prediction, from_sample, from_x0, from_noise, from_previous_x0, clip;
};

__device__ __forceinline__ void write_sample(const StepParameters& p, unsigned slot, unsigned first, unsigned count,
                                             const float (&x)[8]) {
    store8(p.sample + size_t(slot) * p.size + first, count, x);
    if (p.guided) store8(p.sample + size_t(p.samples + slot) * p.size + first, count, x);
}

__device__ __forceinline__ void set_timestep(const StepParameters& p) {
    if (blockIdx.x != 0 || blockIdx.y != 0) return;
    for (unsigned row = threadIdx.x; row < (p.guided ? 2 * p.samples : p.samples); row += blockDim.x)
        p.timestep[row] = p.next_timestep;
}

// x0 of eight elements; a comparison with NaN is false, so that NaN passes the clipping.
__device__ __forceinline__ void predict_x0(const StepParameters& p, unsigned slot, unsigned first, unsigned count,
                                           const float (&x)[8], float (&x0)[8]) {
    load8(p.prediction + size_t(slot) * p.size + first, count, x0);
    if (p.guided) {
        float base[8];
        load8(p.prediction + size_t(p.samples + slot) * p.size + first, count, base);
#pragma unroll
        for (int k = 0; k < 8; ++k) x0[k] = base[k] + p.guidance * (x0[k] - base[k]);
    }
#pragma unroll
    for (int k = 0; k < 8; ++k) {
        const float value = p.x0_from_prediction * x0[k] + p.x0_from_sample * x[k];
        x0[k] = value > p.clip ? p.clip : value < -p.clip ? -p.clip : value;
    }
}

// All threads that see a value that is not finite store the same 1.
__device__ __forceinline__ void flag_failure(const StepParameters& p, unsigned slot, const float (&x)[8]) {
    if (!all_finite(x)) p.failed[slot] = 1;
}
