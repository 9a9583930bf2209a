// Initial latents: state, the denoiser's copy, first timestep, failure flags cleared. Launch: (groups of 8, samples).
#include "state.cuh"

template <class T>
__device__ void initial_latent(float* state, T* copy, float* timestep, unsigned* failed, const unsigned* seed,
                               const unsigned* slots, unsigned size, unsigned samples, unsigned guided, unsigned draw,
                               float first_timestep) {
    const DenoiserInput<T> input{copy, timestep, samples, size, guided != 0};
    input.set_timestep(first_timestep);
    for (unsigned slot = blockIdx.y; slot < samples; slot += gridDim.y) {
        if (blockIdx.x == 0 && threadIdx.x == 0) failed[slot] = 0;
        const NoiseSource source(seed, slots, slot, draw);
        for (unsigned group = blockIdx.x * blockDim.x + threadIdx.x; group < (size + 7) / 8;
             group += gridDim.x * blockDim.x) {
            const unsigned first = 8 * group, count = size - first < 8 ? size - first : 8;
            float z[8];
            normal8(source, group, z);
            store8(state + size_t(slot) * size + first, count, z);
            input.write(slot, first, count, z);
        }
    }
}

#define INITIAL_LATENT(suffix, T) \
    extern "C" __global__ void __launch_bounds__(256) initial_latent_##suffix( \
        float* state, T* copy, float* timestep, unsigned* failed, const unsigned* seed, const unsigned* slots, \
        unsigned size, unsigned samples, unsigned guided, unsigned draw, float first_timestep) { \
        initial_latent<T>(state, copy, timestep, failed, seed, slots, size, samples, guided, draw, first_timestep); \
    } \
    KERNEL_ENTRY(initial_latent_##suffix)

INITIAL_LATENT(f32, float)
INITIAL_LATENT(f16, F16)
INITIAL_LATENT(bf16, BF16)

// The raw words (samples, blocks, 4) of a draw, for the check that they are the same everywhere.
extern "C" __global__ void __launch_bounds__(256) philox_words(uint4* words, const unsigned* seed,
                                                               const unsigned* slots, unsigned blocks,
                                                               unsigned samples, unsigned draw) {
    for (unsigned slot = blockIdx.y; slot < samples; slot += gridDim.y) {
        const NoiseSource source(seed, slots, slot, draw);
        for (unsigned block = blockIdx.x * blockDim.x + threadIdx.x; block < blocks; block += gridDim.x * blockDim.x)
            words[size_t(slot) * blocks + block] = source.words(block);
    }
}
KERNEL_ENTRY(philox_words)
