// Integer counts of finished volumes; the columns are measure.py's. Integers make every order of addition give the same
// result. `measure_blocks` (blocks, samples) writes a partial row a block, `measure_finish` (1, samples) adds them up.
#include "precision.cuh"

namespace {

typedef long long Count;
constexpr unsigned kThreads = 256, kColumns = 16;

__device__ __forceinline__ bool is_minimum(unsigned column) { return column >= 7 && column < 10; }
__device__ __forceinline__ bool is_maximum(unsigned column) { return column >= 10 && column < 13; }

__device__ __forceinline__ Count combine(unsigned column, Count a, Count b) {
    if (is_minimum(column)) return a < b ? a : b;
    if (is_maximum(column)) return a > b ? a : b;
    return a + b;
}

__device__ __forceinline__ void clear(Count (&row)[kColumns]) {
#pragma unroll
    for (unsigned c = 0; c < kColumns; ++c) row[c] = is_minimum(c) ? 2147483647 : is_maximum(c) ? -1 : 0;
}

// Adds up the rows of a block's threads by halves and writes the result.
__device__ __forceinline__ void reduce_block(const Count (&row)[kColumns], Count* to) {
    __shared__ Count shared[kColumns][kThreads];
#pragma unroll
    for (unsigned c = 0; c < kColumns; ++c) shared[c][threadIdx.x] = row[c];
    for (unsigned half = kThreads / 2; half > 0; half /= 2) {
        __syncthreads();
        if (threadIdx.x < half) {
#pragma unroll
            for (unsigned c = 0; c < kColumns; ++c)
                shared[c][threadIdx.x] = combine(c, shared[c][threadIdx.x], shared[c][threadIdx.x + half]);
        }
    }
    __syncthreads();
    if (threadIdx.x < kColumns) to[threadIdx.x] = shared[threadIdx.x][0];
    __syncthreads();
}

// The first `count` of eight labels.
__device__ __forceinline__ void load_labels(const unsigned char* from, unsigned count, unsigned (&label)[8]) {
    if (count == 8 && (size_t(from) & 7) == 0) {
        const uint2 words = *reinterpret_cast<const uint2*>(from);
#pragma unroll
        for (int k = 0; k < 8; ++k) label[k] = (k < 4 ? words.x : words.y) >> (8 * (k % 4)) & 255;
        return;
    }
#pragma unroll
    for (unsigned k = 0; k < 8; ++k) label[k] = k < count ? from[k] : 0;
}

__device__ __forceinline__ void add_position(Count (&row)[kColumns], unsigned axis, unsigned value) {
    row[4 + axis] += value;
    row[7 + axis] = combine(7, row[7 + axis], value);
    row[10 + axis] = combine(10, row[10 + axis], value);
}

}  // namespace

extern "C" __global__ void __launch_bounds__(256) measure_blocks(const short* images, const unsigned char* labels,
                                                                 Count* partial, unsigned samples, unsigned modalities,
                                                                 unsigned width, unsigned height, unsigned depth) {
    const unsigned voxels = width * height * depth, groups = (voxels + 7) / 8;
    for (unsigned n = blockIdx.y; n < samples; n += gridDim.y) {
        Count row[kColumns];
        clear(row);
        for (unsigned group = blockIdx.x * blockDim.x + threadIdx.x; group < groups;
             group += gridDim.x * blockDim.x) {
            const unsigned first = 8 * group, count = voxels - first < 8 ? voxels - first : 8;
            unsigned brain = 0;
            for (unsigned m = 0; m < modalities; ++m) {
                const short* from = images + (size_t(n) * modalities + m) * voxels + first;
                if (count == 8 && aligned(from)) {
                    const uint4 words = *reinterpret_cast<const uint4*>(from);
#pragma unroll
                    for (int k = 0; k < 8; ++k)
                        brain |= unsigned(short(get_word(words, k / 2) >> (16 * (k % 2))) > 0) << k;
                } else {
                    for (unsigned k = 0; k < count; ++k) brain |= unsigned(from[k] > 0) << k;
                }
            }
            unsigned label[8];
            load_labels(labels + size_t(n) * voxels + first, count, label);
#pragma unroll
            for (unsigned k = 0; k < 8; ++k) {
                if (k >= count) break;
                const unsigned at = first + k;
#pragma unroll
                for (unsigned c = 0; c < 4; ++c) row[c] += label[k] == c;
                row[13] += brain >> k & 1;
                if (label[k] == 0) continue;
                row[14] += brain >> k & 1;
                add_position(row, 0, at / depth / height);
                add_position(row, 1, at / depth % height);
                add_position(row, 2, at % depth);
            }
        }
        reduce_block(row, partial + (size_t(n) * gridDim.x + blockIdx.x) * kColumns);
    }
}
KERNEL_ENTRY(measure_blocks)

extern "C" __global__ void __launch_bounds__(256) measure_finish(const Count* partial, Count* rows, unsigned samples,
                                                                 unsigned blocks) {
    for (unsigned n = blockIdx.y; n < samples; n += gridDim.y) {
        Count row[kColumns];
        clear(row);
        for (unsigned block = threadIdx.x; block < blocks; block += blockDim.x)
#pragma unroll
            for (unsigned c = 0; c < kColumns; ++c)
                row[c] = combine(c, row[c], partial[(size_t(n) * blocks + block) * kColumns + c]);
        reduce_block(row, rows + size_t(n) * kColumns);
    }
}
KERNEL_ENTRY(measure_finish)
