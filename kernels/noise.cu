// Initial latents: state, the denoiser's copy, first timestep, failure flags cleared. Launch: (groups of 8, samples).
#include "state.cuh"

extern "C" __global__ void __launch_bounds__(256) initial_latent(const StepParameters p) {
    set_timestep(p);
    for (unsigned slot = blockIdx.y; slot < p.samples; slot += gridDim.y) {
        if (blockIdx.x == 0 && threadIdx.x == 0) p.failed[slot] = 0;
        const NoiseSource source(p.seed, p.slots, slot, p.draw);
        for (unsigned group = blockIdx.x * blockDim.x + threadIdx.x; group < (p.size + 7) / 8;
             group += gridDim.x * blockDim.x) {
            const unsigned first = 8 * group, count = p.size - first < 8 ? p.size - first : 8;
            float z[8];
            normal8(source, group, z);
            store8(p.state + size_t(slot) * p.size + first, count, z);
            write_sample(p, slot, first, count, z);
        }
    }
}
KERNEL_ENTRY(initial_latent)

struct WordsParameters {
    uint4* words;  // (samples, blocks)
    const unsigned *seed, *slots;
    unsigned blocks, samples, draw;
};

// The raw words of a draw, for the check that they are the same everywhere.
extern "C" __global__ void __launch_bounds__(256) philox_words(const WordsParameters p) {
    for (unsigned slot = blockIdx.y; slot < p.samples; slot += gridDim.y) {
        const NoiseSource source(p.seed, p.slots, slot, p.draw);
        for (unsigned block = blockIdx.x * blockDim.x + threadIdx.x; block < p.blocks;
             block += gridDim.x * blockDim.x)
            p.words[size_t(slot) * p.blocks + block] = source.words(block);
    }
}
KERNEL_ENTRY(philox_words)
