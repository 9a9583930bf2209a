// Integer statistics of finished images; the columns are statistics.py's. Integers make every order of addition give the
// same result. `statistics_blocks` (blocks, images) writes a partial row a block, `statistics_finish` (1, images) adds
// them up; an image is one modality of one volume.
#include "vectors.cuh"

namespace {

constexpr unsigned kThreads = 256, kColumns = 4;
constexpr int kBrightest = 1000, kNoMinimum = 32767;

__device__ __forceinline__ int combine(unsigned column, int a, int b) {
    return column == 1 ? (a < b ? a : b) : column == 2 ? (a > b ? a : b) : a + b;
}

__device__ __forceinline__ void clear(int (&row)[kColumns]) { row[0] = 0, row[1] = kNoMinimum, row[2] = 0, row[3] = 0; }

__device__ __forceinline__ void count_value(int (&row)[kColumns], int value) {
    if (value <= 0) return;
    row[0] += 1;
    row[1] = combine(1, row[1], value);
    row[2] = combine(2, row[2], value);
    row[3] += value == kBrightest;
}

// Adds up the rows of a block's threads by halves and writes the result.
__device__ __forceinline__ void reduce_block(const int (&row)[kColumns], int* to) {
    __shared__ int shared[kColumns][kThreads];
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

}  // namespace

struct StatisticsParameters {
    const short* values;  // (images, voxels)
    int* partial;         // (images, blocks, 4)
    int* rows;            // (images, 4)
    unsigned images, voxels, blocks;
};

extern "C" __global__ void __launch_bounds__(256) statistics_blocks(const StatisticsParameters p) {
    for (unsigned n = blockIdx.y; n < p.images; n += gridDim.y) {
        int row[kColumns];
        clear(row);
        for (unsigned group = blockIdx.x * blockDim.x + threadIdx.x; group < (p.voxels + 7) / 8;
             group += gridDim.x * blockDim.x) {
            const unsigned first = 8 * group, count = p.voxels - first < 8 ? p.voxels - first : 8;
            const short* from = p.values + size_t(n) * p.voxels + first;
            if (count == 8 && aligned(from)) {
                const uint4 words = *reinterpret_cast<const uint4*>(from);
#pragma unroll
                for (int k = 0; k < 8; ++k) count_value(row, short(get_word(words, k / 2) >> (16 * (k % 2))));
            } else {
                for (unsigned k = 0; k < count; ++k) count_value(row, from[k]);
            }
        }
        reduce_block(row, p.partial + (size_t(n) * p.blocks + blockIdx.x) * kColumns);
    }
}
KERNEL_ENTRY(statistics_blocks)

extern "C" __global__ void __launch_bounds__(256) statistics_finish(const StatisticsParameters p) {
    for (unsigned n = blockIdx.y; n < p.images; n += gridDim.y) {
        int row[kColumns];
        clear(row);
        for (unsigned block = threadIdx.x; block < p.blocks; block += blockDim.x)
#pragma unroll
            for (unsigned c = 0; c < kColumns; ++c)
                row[c] = combine(c, row[c], p.partial[(size_t(n) * p.blocks + block) * kColumns + c]);
        reduce_block(row, p.rows + size_t(n) * kColumns);
    }
}
KERNEL_ENTRY(statistics_finish)
