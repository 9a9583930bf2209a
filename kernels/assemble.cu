// Decoder output to finished volumes in one pass; the rule is assemble.py's. A block turns a tile of 32 slices times 64
// positions of the plane so that z runs fastest; threads that read a value that is not finite all store the same 1 for
// its volume. Launch: (tiles, 1), 256 threads.
#include "vectors.cuh"

namespace {

constexpr unsigned kThreads = 256, kSlices = 32, kPositions = 64;
constexpr unsigned kSliceVectors = kSlices / 8, kPositionVectors = kPositions / 8;
static_assert(kThreads == kSlices * kPositionVectors && kThreads == kPositions * kSliceVectors, "one vector a thread");

struct Volume {
    unsigned modalities, classes, depth, plane;  // plane: X * Y
};

// A tile of 16-bit values. The columns of a row are exchanged by row group, so that neither writing along the plane nor
// reading along z meets a bank twice.
struct Tile {
    uint4 rows[kSlices][kPositionVectors];
    __device__ __forceinline__ void put(unsigned slice, unsigned column, const unsigned short (&bits)[8]) {
        rows[slice][column ^ (slice / 8)] = pack_words(bits);
    }
    __device__ __forceinline__ void take(unsigned slice_vector, unsigned position,
                                         unsigned short (&bits)[8]) const {
        const unsigned column = (position / 8) ^ slice_vector;
#pragma unroll
        for (unsigned k = 0; k < 8; ++k)
            bits[k] = reinterpret_cast<const unsigned short*>(&rows[8 * slice_vector + k][column])[position % 8];
    }
};

__device__ __forceinline__ void write_run(short* to, unsigned count, const unsigned short (&bits)[8]) {
    if (count == 8 && aligned(to)) {
        *reinterpret_cast<uint4*>(to) = pack_words(bits);
        return;
    }
#pragma unroll
    for (unsigned k = 0; k < 8; ++k)
        if (k < count) to[k] = short(bits[k]);
}

__device__ __forceinline__ void write_run(unsigned char* to, unsigned count, const unsigned short (&bits)[8]) {
    if (count == 8 && (size_t(to) & 7) == 0) {
        *reinterpret_cast<uint2*>(to) = {bits[0] | bits[1] << 8 | bits[2] << 16 | unsigned(bits[3]) << 24,
                                         bits[4] | bits[5] << 8 | bits[6] << 16 | unsigned(bits[7]) << 24};
        return;
    }
#pragma unroll
    for (unsigned k = 0; k < 8; ++k)
        if (k < count) to[k] = (unsigned char)(bits[k]);
}

// Writes the tile to `to` (plane, depth), whose first value belongs to position 0 and slice 0 of the volume.
template <class Out>
__device__ __forceinline__ void write_tile(const Tile& tile, Out* to, const Volume& volume, unsigned first_position,
                                           unsigned first_slice) {
    const unsigned slice_vector = threadIdx.x % kSliceVectors, local = threadIdx.x / kSliceVectors;
    const unsigned position = first_position + local, slice = first_slice + 8 * slice_vector;
    if (position >= volume.plane || slice >= volume.depth) return;
    unsigned short bits[8];
    tile.take(slice_vector, local, bits);
    const unsigned left = volume.depth - slice;
    write_run(to + size_t(position) * volume.depth + slice, left < 8 ? left : 8, bits);
}

// The first largest logit of eight positions; `logits` points at class 0. False where one is not finite.
__device__ __forceinline__ bool argmax8(const float* logits, const Volume& volume, unsigned count,
                                        unsigned short (&best)[8]) {
    float top[8];
    load8(logits, count, top);
    bool finite = all_finite(top);
#pragma unroll
    for (int k = 0; k < 8; ++k) best[k] = 0;
    for (unsigned label = 1; label < volume.classes; ++label) {
        float value[8];
        load8(logits + size_t(label) * volume.plane, count, value);
        finite = all_finite(value) && finite;
#pragma unroll
        for (int k = 0; k < 8; ++k)
            if (value[k] > top[k]) top[k] = value[k], best[k] = (unsigned short)(label);
    }
    return finite;
}

// Bit k is set where position k is not background; `finite` turns false where a value is not finite.
__device__ __forceinline__ unsigned foreground8(const float* image, const Volume& volume, unsigned count, float threshold,
                                                const unsigned short (&label)[8], bool& finite) {
    unsigned keep = 0;
#pragma unroll
    for (int k = 0; k < 8; ++k) keep |= unsigned(label[k] != 0) << k;
    for (unsigned m = 0; m < volume.modalities; ++m) {
        float value[8];
        load8(image + size_t(m) * volume.plane, count, value);
        finite = all_finite(value) && finite;
#pragma unroll
        for (int k = 0; k < 8; ++k) keep |= unsigned(!((value[k] + 1.0f) * 0.5f < threshold)) << k;
    }
    return keep;
}

__device__ __forceinline__ void denormalise8(const float* image, unsigned count, unsigned keep,
                                             unsigned short (&bits)[8]) {
    float value[8];
    load8(image, count, value);
#pragma unroll
    for (int k = 0; k < 8; ++k) {
        const float scaled = rintf((value[k] + 1.0f) * 500.0f);
        const bool shown = (keep >> k & 1) && scaled > 0.0f;  // false for NaN
        bits[k] = shown ? (unsigned short)(scaled < 1000.0f ? scaled : 1000.0f) : 0;
    }
}

}  // namespace

struct AssembleParameters {
    const float* image;     // (volumes * depth, modalities, plane)
    const float* logits;    // (volumes * depth, classes, plane)
    short* images;          // (volumes, modalities, plane, depth)
    unsigned char* labels;  // (volumes, plane, depth)
    unsigned* failed;       // (volumes,)
    Volume volume;
    unsigned volumes;
    float threshold;
};

extern "C" __global__ void __launch_bounds__(256) assemble(const AssembleParameters p) {
    __shared__ Tile tile;
    const Volume& volume = p.volume;
    const unsigned plane_tiles = (volume.plane + kPositions - 1) / kPositions;
    const unsigned slice_tiles = (volume.depth + kSlices - 1) / kSlices;
    const unsigned local_slice = threadIdx.x / kPositionVectors, column = threadIdx.x % kPositionVectors;
    for (unsigned at = blockIdx.x; at < p.volumes * slice_tiles * plane_tiles; at += gridDim.x) {
        const unsigned n = at / (slice_tiles * plane_tiles);
        const unsigned first_position = at % plane_tiles * kPositions;
        const unsigned first_slice = at / plane_tiles % slice_tiles * kSlices;
        const unsigned slice = first_slice + local_slice, position = first_position + 8 * column;
        const bool inside = slice < volume.depth && position < volume.plane;
        const unsigned count = volume.plane - position < 8 ? volume.plane - position : 8;
        const size_t row = size_t(n) * volume.depth + slice;
        const float* from = p.image + row * volume.modalities * volume.plane + position;
        unsigned short bits[8];
        unsigned keep = 0;
        if (inside) {
            bool finite = argmax8(p.logits + row * volume.classes * volume.plane + position, volume, count, bits);
            keep = foreground8(from, volume, count, p.threshold, bits, finite);
            if (!finite) p.failed[n] = 1;
            tile.put(local_slice, column, bits);
        }
        __syncthreads();
        const size_t voxels = size_t(volume.plane) * volume.depth;
        write_tile(tile, p.labels + n * voxels, volume, first_position, first_slice);
        __syncthreads();
        for (unsigned m = 0; m < volume.modalities; ++m) {
            if (inside) {
                denormalise8(from + size_t(m) * volume.plane, count, keep, bits);
                tile.put(local_slice, column, bits);
            }
            __syncthreads();
            write_tile(tile, p.images + (size_t(n) * volume.modalities + m) * voxels, volume, first_position,
                       first_slice);
            __syncthreads();
        }
    }
}
KERNEL_ENTRY(assemble)

struct OneHotParameters {
    const float* logits;  // (slices, classes, plane)
    float* labels;        // the same
    Volume volume;        // classes and plane
    unsigned slices;
};

// One-hot labels of the logits, for the refiner.
extern "C" __global__ void __launch_bounds__(256) one_hot(const OneHotParameters p) {
    const Volume& volume = p.volume;
    const unsigned groups = (volume.plane + 7) / 8;
    for (unsigned at = blockIdx.x * blockDim.x + threadIdx.x; at < p.slices * groups; at += gridDim.x * blockDim.x) {
        const unsigned position = at % groups * 8;
        const unsigned count = volume.plane - position < 8 ? volume.plane - position : 8;
        const size_t offset = size_t(at / groups) * volume.classes * volume.plane + position;
        unsigned short best[8];
        argmax8(p.logits + offset, volume, count, best);
        for (unsigned label = 0; label < volume.classes; ++label) {
            float value[8];
#pragma unroll
            for (int k = 0; k < 8; ++k) value[k] = best[k] == label ? 1.0f : 0.0f;
            store8(p.labels + offset + size_t(label) * volume.plane, count, value);
        }
    }
}
KERNEL_ENTRY(one_hot)

struct ClipParameters {
    float* image;
    unsigned elements;
};

// Holds the image within -1..1 in place, as the refiner was trained; NaN stays.
extern "C" __global__ void __launch_bounds__(256) clip_image(const ClipParameters p) {
    const unsigned groups = (p.elements + 7) / 8;
    for (unsigned group = blockIdx.x * blockDim.x + threadIdx.x; group < groups; group += gridDim.x * blockDim.x) {
        const unsigned first = 8 * group, count = p.elements - first < 8 ? p.elements - first : 8;
        float value[8];
        load8(p.image + first, count, value);
#pragma unroll
        for (int k = 0; k < 8; ++k) value[k] = value[k] > 1.0f ? 1.0f : value[k] < -1.0f ? -1.0f : value[k];
        store8(p.image + first, count, value);
    }
}
KERNEL_ENTRY(clip_image)
