// 16-byte access: eight elements a thread.
#pragma once
#ifdef __CUDACC__
#define KERNEL_ENTRY(name)
#else
#include "cpu_shim.h"
#endif

__device__ __forceinline__ bool aligned(const void* pointer) { return (size_t(pointer) & 15) == 0; }

__device__ __forceinline__ unsigned get_word(const uint4& words, int i) {
    return i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w;
}

__device__ __forceinline__ uint4 pack_words(const unsigned short (&bits)[8]) {
    return {bits[0] | unsigned(bits[1]) << 16, bits[2] | unsigned(bits[3]) << 16, bits[4] | unsigned(bits[5]) << 16,
            bits[6] | unsigned(bits[7]) << 16};
}

__device__ __forceinline__ bool all_finite(const float (&x)[8]) {
    bool finite = true;
#pragma unroll
    for (int k = 0; k < 8; ++k) finite = finite && fabsf(x[k]) <= 3.402823466e38f;  // false for NaN
    return finite;
}

// The first `count` of eight elements; the others read as 0.
__device__ __forceinline__ void load8(const float* from, unsigned count, float (&x)[8]) {
    if (count == 8 && aligned(from)) {
        const float4 low = reinterpret_cast<const float4*>(from)[0], high = reinterpret_cast<const float4*>(from)[1];
        x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
        x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
        return;
    }
#pragma unroll
    for (unsigned k = 0; k < 8; ++k) x[k] = k < count ? from[k] : 0.0f;
}

__device__ __forceinline__ void store8(float* to, unsigned count, const float (&x)[8]) {
    if (count == 8 && aligned(to)) {
        reinterpret_cast<float4*>(to)[0] = {x[0], x[1], x[2], x[3]};
        reinterpret_cast<float4*>(to)[1] = {x[4], x[5], x[6], x[7]};
        return;
    }
#pragma unroll
    for (unsigned k = 0; k < 8; ++k)
        if (k < count) to[k] = x[k];
}
