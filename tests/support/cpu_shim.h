// Lets g++ compile the .cu files of this folder and run them on the CPU, one fiber a CUDA thread, for tests.
// A block's threads run one after the other up to the next __syncthreads(); a barrier that some threads of the block
// do not reach stops the program. With shim_reverse_order they run backwards, so that a result that depends on the
// order of threads between two barriers shows as a difference.
#pragma once
#include <cmath>
#include <csetjmp>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <ucontext.h>
#include <vector>

#define __global__
#define __device__
#define __forceinline__ inline
#define __shared__ static
#define __launch_bounds__(threads)

struct dim3 {
    unsigned x, y, z;
};
struct alignas(16) uint4 {
    unsigned x, y, z, w;
};
struct alignas(8) uint2 {
    unsigned x, y;
};
struct alignas(16) float4 {
    float x, y, z, w;
};

static dim3 threadIdx, blockIdx, blockDim, gridDim;
extern "C" int shim_reverse_order;
int shim_reverse_order = 0;

namespace shim {

// A fiber is made once and runs one thread of each block; jumps between fibers leave the signal mask alone and so need
// no system call.
struct Fiber {
    ucontext_t context;
    jmp_buf state;
    std::vector<char> stack = std::vector<char>(65536);
    bool started = false, done = false;
};

static jmp_buf scheduler;
static std::vector<Fiber> fibers;
static unsigned current;
static void (*body)(void*);
static void* body_arguments;

static void yield() {
    if (!_setjmp(fibers[current].state)) _longjmp(scheduler, 1);
}

static void run_threads() {
    for (;;) {
        body(body_arguments);
        fibers[current].done = true;
        yield();
    }
}

static void resume(Fiber& fiber) {
    if (_setjmp(scheduler)) return;
    if (fiber.started) _longjmp(fiber.state, 1);
    fiber.started = true;
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.data();
    fiber.context.uc_stack.ss_size = fiber.stack.size();
    makecontext(&fiber.context, run_threads, 0);
    setcontext(&fiber.context);
}

static void run_block(unsigned threads) {
    for (Fiber& fiber : fibers) fiber.done = false;
    for (unsigned finished = 0; finished == 0;) {
        for (unsigned i = 0; i < threads; ++i) {
            current = shim_reverse_order ? threads - 1 - i : i;
            threadIdx = {current, 0, 0};
            resume(fibers[current]);
            finished += fibers[current].done;
        }
        if (finished != 0 && finished != threads) {
            std::fprintf(stderr, "__syncthreads() was not reached by all threads of a block\n");
            std::abort();
        }
    }
}

template <class Parameters>
static constexpr unsigned size_of(void (*)(Parameters)) {
    return sizeof(Parameters);
}

template <class Parameters>
static void launch(void (*kernel)(Parameters), const unsigned* grid, unsigned threads, const void* bytes) {
    struct Call {
        void (*kernel)(Parameters);
        Parameters parameters;
    } arguments{kernel, {}};
    std::memcpy(&arguments.parameters, bytes, sizeof(Parameters));
    body = [](void* pointer) {
        Call& all = *static_cast<Call*>(pointer);
        all.kernel(all.parameters);
    };
    body_arguments = &arguments;
    if (fibers.size() < threads) fibers.resize(threads);
    blockDim = {threads, 1, 1};
    gridDim = {grid[0], grid[1], 1};
    for (unsigned y = 0; y < grid[1]; ++y)
        for (unsigned x = 0; x < grid[0]; ++x) {
            blockIdx = {x, y, 0};
            run_block(threads);
        }
}

}  // namespace shim

inline void __syncthreads() { shim::yield(); }

inline unsigned __umulhi(unsigned a, unsigned b) { return unsigned((uint64_t(a) * b) >> 32); }

inline void sincospif(float x, float* sine, float* cosine) {
    *sine = float(std::sin(M_PI * x));
    *cosine = float(std::cos(M_PI * x));
}

// What cuLaunchKernel is to the compiled kernel: NAME_launch(grid x and y, threads a block, bytes of its struct), and
// NAME_size, how many bytes that are.
#define KERNEL_ENTRY(name) \
    extern "C" { \
    unsigned name##_size = shim::size_of(name); \
    void name##_launch(const unsigned* grid, unsigned threads, const void* bytes) { \
        shim::launch(name, grid, threads, bytes); \
    } \
    }
