// Philox4x32-10 (Salmon et al. 2011) and Box-Muller normals in registers; the definition is noise.py's.
#pragma once
#include "vectors.cuh"

__device__ __forceinline__ uint4 philox4x32(uint4 counter, unsigned key0, unsigned key1) {
#pragma unroll
    for (int round = 0; round < 10; ++round) {
        const unsigned high0 = __umulhi(0xD2511F53u, counter.x), low0 = 0xD2511F53u * counter.x;
        const unsigned high1 = __umulhi(0xCD9E8D57u, counter.z), low1 = 0xCD9E8D57u * counter.z;
        counter = {high1 ^ counter.y ^ key0, low1, high0 ^ counter.w ^ key1, low0};
        key0 += 0x9E3779B9u;
        key1 += 0xBB67AE85u;
    }
    return counter;
}

// One batch slot's place in the noise: `slots` holds (sample low, sample high, draw offset, unused) a slot.
struct NoiseSource {
    unsigned key0, key1, sample_low, sample_high, draw;
    __device__ __forceinline__ NoiseSource(const unsigned* seed, const unsigned* slots, unsigned slot, unsigned draw_)
        : key0(seed[0]), key1(seed[1]), sample_low(slots[4 * slot]), sample_high(slots[4 * slot + 1]),
          draw(draw_ + slots[4 * slot + 2]) {}
    __device__ __forceinline__ uint4 words(unsigned block) const {
        return philox4x32({block, draw, sample_low, sample_high}, key0, key1);
    }
};

__device__ __forceinline__ void box_muller(unsigned a, unsigned b, float& first, float& second) {
    const float radius = sqrtf(-2.0f * logf(float((a >> 8) + 1) * 0x1p-24f));
    float sine, cosine;
    sincospif(float(b >> 8) * 0x1p-23f, &sine, &cosine);
    first = radius * cosine;
    second = radius * sine;
}

// Normals of the elements 8 * group .. 8 * group + 7.
__device__ __forceinline__ void normal8(const NoiseSource& source, unsigned group, float (&z)[8]) {
#pragma unroll
    for (int half = 0; half < 2; ++half) {
        const uint4 words = source.words(2 * group + half);
        box_muller(words.x, words.y, z[4 * half], z[4 * half + 1]);
        box_muller(words.z, words.w, z[4 * half + 2], z[4 * half + 3]);
    }
}
