/* GFLOP/s of float32 multiply-adds in registers: ./fma_peak THREADS. A multiply-add counts as two operations. */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#if defined(__AVX512F__)
enum { LANES = 16 };
#elif defined(__AVX__)
enum { LANES = 8 };
#else
enum { LANES = 4 };
#endif
typedef float vector __attribute__((vector_size(LANES * sizeof(float))));
enum { CHAINS = 12, ROUNDS = 20000000 }; /* chains: latency times units, and still in registers */

static void *work(void *out) {
    vector a0 = {0}, a1 = a0, a2 = a0, a3 = a0, a4 = a0, a5 = a0, a6 = a0, a7 = a0, a8 = a0, a9 = a0, b0 = a0, b1 = a0;
    vector x = a0 + 0.999f, y = a0 + 0.001f;
    for (long i = 0; i < ROUNDS; i++) {
        a0 = a0 * x + y, a1 = a1 * x + y, a2 = a2 * x + y, a3 = a3 * x + y;
        a4 = a4 * x + y, a5 = a5 * x + y, a6 = a6 * x + y, a7 = a7 * x + y;
        a8 = a8 * x + y, a9 = a9 * x + y, b0 = b0 * x + y, b1 = b1 * x + y;
        __asm__ volatile("" : "+x"(a0), "+x"(a1), "+x"(a2), "+x"(a3), "+x"(a4), "+x"(a5));
        __asm__ volatile("" : "+x"(a6), "+x"(a7), "+x"(a8), "+x"(a9), "+x"(b0), "+x"(b1));
    }
    *(float *)out = (a0 + a1 + a2 + a3 + a4 + a5 + a6 + a7 + a8 + a9 + b0 + b1)[0];
    return NULL;
}

int main(int argc, char **argv) {
    int threads = argc > 1 ? atoi(argv[1]) : 1;
    pthread_t handles[1024];
    float results[1024];
    struct timespec start, stop;
    if (threads < 1 || threads > 1024) return 2;
    clock_gettime(CLOCK_MONOTONIC, &start);
    for (int t = 0; t < threads; t++) pthread_create(&handles[t], NULL, work, &results[t]);
    for (int t = 0; t < threads; t++) pthread_join(handles[t], NULL);
    clock_gettime(CLOCK_MONOTONIC, &stop);
    double seconds = (double)(stop.tv_sec - start.tv_sec) + 1e-9 * (double)(stop.tv_nsec - start.tv_nsec);
    printf("%.1f\n", 2e-9 * LANES * CHAINS * (double)ROUNDS * threads / seconds);
    return 0;
}
