// Storage types and 16-byte access: eight elements a thread, fp32 in registers, fp32/fp16/bf16 in memory.
#pragma once
#ifdef __CUDACC__
#define KERNEL_ENTRY(name)
__device__ __forceinline__ unsigned short float_to_f16(float x) {
    unsigned short bits;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
__device__ __forceinline__ float f16_to_float(unsigned short bits) {
    float x;
    asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(bits));
    return x;
}
__device__ __forceinline__ unsigned short float_to_bf16(float x) {
    unsigned short bits;
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(bits) : "f"(x));
    return bits;
}
#else
#include "cpu_shim.h"
#endif

struct F16 {
    unsigned short bits;
};
struct BF16 {
    unsigned short bits;
};

__device__ __forceinline__ float to_float(float x) { return x; }
__device__ __forceinline__ float to_float(F16 x) { return f16_to_float(x.bits); }
__device__ __forceinline__ float to_float(BF16 x) { return __uint_as_float(unsigned(x.bits) << 16); }
__device__ __forceinline__ void store(float* to, float x) { *to = x; }
__device__ __forceinline__ void store(F16* to, float x) { to->bits = float_to_f16(x); }
__device__ __forceinline__ void store(BF16* to, float x) { to->bits = float_to_bf16(x); }

__device__ __forceinline__ bool aligned(const void* pointer) { return (size_t(pointer) & 15) == 0; }

__device__ __forceinline__ unsigned get_word(const uint4& words, int i) {
    return i == 0 ? words.x : i == 1 ? words.y : i == 2 ? words.z : words.w;
}

__device__ __forceinline__ void load_vector(const float* from, float (&x)[8]) {
    const float4 low = reinterpret_cast<const float4*>(from)[0], high = reinterpret_cast<const float4*>(from)[1];
    x[0] = low.x, x[1] = low.y, x[2] = low.z, x[3] = low.w;
    x[4] = high.x, x[5] = high.y, x[6] = high.z, x[7] = high.w;
}
template <class T>
__device__ __forceinline__ void load_vector(const T* from, float (&x)[8]) {
    const uint4 words = *reinterpret_cast<const uint4*>(from);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
        T element;
        element.bits = (unsigned short)(get_word(words, k / 2) >> (16 * (k % 2)));
        x[k] = to_float(element);
    }
}

__device__ __forceinline__ uint4 pack_words(const unsigned short (&bits)[8]) {
    return {bits[0] | unsigned(bits[1]) << 16, bits[2] | unsigned(bits[3]) << 16, bits[4] | unsigned(bits[5]) << 16,
            bits[6] | unsigned(bits[7]) << 16};
}

__device__ __forceinline__ void store_vector(float* to, const float (&x)[8]) {
    reinterpret_cast<float4*>(to)[0] = {x[0], x[1], x[2], x[3]};
    reinterpret_cast<float4*>(to)[1] = {x[4], x[5], x[6], x[7]};
}
template <class T>
__device__ __forceinline__ void store_vector(T* to, const float (&x)[8]) {
    unsigned short bits[8];
#pragma unroll
    for (int k = 0; k < 8; ++k) {
        T element;
        store(&element, x[k]);
        bits[k] = element.bits;
    }
    *reinterpret_cast<uint4*>(to) = pack_words(bits);
}

__device__ __forceinline__ bool all_finite(const float (&x)[8]) {
    bool finite = true;
#pragma unroll
    for (int k = 0; k < 8; ++k) finite = finite && fabsf(x[k]) <= 3.402823466e38f;  // false for NaN
    return finite;
}

// The first `count` of eight elements; the others read as 0.
template <class T>
__device__ __forceinline__ void load8(const T* from, unsigned count, float (&x)[8]) {
    if (count == 8 && aligned(from)) {
        load_vector(from, x);
        return;
    }
#pragma unroll
    for (unsigned k = 0; k < 8; ++k) x[k] = k < count ? to_float(from[k]) : 0.0f;
}

template <class T>
__device__ __forceinline__ void store8(T* to, unsigned count, const float (&x)[8]) {
    if (count == 8 && aligned(to)) {
        store_vector(to, x);
        return;
    }
#pragma unroll
    for (unsigned k = 0; k < 8; ++k)
        if (k < count) store(to + k, x[k]);
}
