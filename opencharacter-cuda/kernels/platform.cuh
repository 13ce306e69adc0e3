// What kernels are written against: CUDA where nvcc compiles them, the emulation where a C++ compiler does.
#pragma once

#ifdef __CUDACC__
#include <cuda_bf16.h>
#include <mma.h>
#include <cstdint>

using bf16 = __nv_bfloat16;
namespace tiles = nvcuda::wmma;

#define SHARED_MEMORY(name) extern __shared__ __align__(128) unsigned char name[]
#define SHARED_ARRAY(type, name, length) __shared__ type name[length]
#else
#include "emulated.h"
#endif

constexpr int WARP = 32;

__device__ inline float to_float(float value) { return value; }
#ifdef __CUDACC__
__device__ inline float to_float(bf16 value) { return __bfloat162float(value); }
template <class T> __device__ inline T from_float(float value);
template <> __device__ inline bf16 from_float<bf16>(float value) { return __float2bfloat16_rn(value); }
#else
inline float to_float(bf16 value) { return value.to_float(); }
template <class T> inline T from_float(float value);
template <> inline float from_float<float>(float value) { return value; }
template <> inline bf16 from_float<bf16>(float value) { return bf16::from_float(value); }
#endif

/// As many elements as one 16-byte access moves.
template <class T> struct alignas(16) Pack {
    static constexpr int LENGTH = 16 / sizeof(T);
    T values[LENGTH];
};

template <int N> struct Count {
    static constexpr int VALUE = N;
};

template <int N> struct Floats {
    float values[N];
};

/// N elements from `source`, which is aligned to 16 bytes where N is more than one.
template <int N, class T> __device__ inline Floats<N> load(const T* source) {
    Floats<N> out;
    if constexpr (N == 1) {
        out.values[0] = to_float(*source);
    } else {
        static_assert(N == Pack<T>::LENGTH);
        const Pack<T> pack = *reinterpret_cast<const Pack<T>*>(source);
#pragma unroll
        for (int i = 0; i < N; ++i) out.values[i] = to_float(pack.values[i]);
    }
    return out;
}

template <int N, class T> __device__ inline void store(T* target, const Floats<N>& floats) {
    if constexpr (N == 1) {
        *target = from_float<T>(floats.values[0]);
    } else {
        static_assert(N == Pack<T>::LENGTH);
        Pack<T> pack;
#pragma unroll
        for (int i = 0; i < N; ++i) pack.values[i] = from_float<T>(floats.values[i]);
        *reinterpret_cast<Pack<T>*>(target) = pack;
    }
}

/// Whether rows of `width` elements that begin `stride` apart, from `start` on, can be moved in packs.
template <class T> __device__ inline bool in_packs(const T* start, int width, int stride) {
    return (reinterpret_cast<uintptr_t>(start) % 16) == 0 && width % Pack<T>::LENGTH == 0 &&
           stride % Pack<T>::LENGTH == 0;
}

/// Calls `body(column, Count<N>)` for the columns of a row that are this thread's: N at once where `packed`.
template <class T, class Body> __device__ inline void for_columns(int width, bool packed, Body body) {
    if (packed) {
        constexpr int N = Pack<T>::LENGTH;
        for (int column = threadIdx.x * N; column < width; column += blockDim.x * N) body(column, Count<N>{});
    } else {
        for (int column = threadIdx.x; column < width; column += blockDim.x) body(column, Count<1>{});
    }
}

/// This thread's first place in a loop over all threads of the grid, and how far apart its places are.
__device__ inline long long first_place() { return static_cast<long long>(blockIdx.x) * blockDim.x + threadIdx.x; }
__device__ inline long long place_step() { return static_cast<long long>(gridDim.x) * blockDim.x; }

__device__ inline float warp_sum(float value) {
#pragma unroll
    for (int mask = WARP / 2; mask > 0; mask /= 2) value += __shfl_xor_sync(0xffffffffu, value, mask);
    return value;
}

__device__ inline float warp_max(float value) {
#pragma unroll
    for (int mask = WARP / 2; mask > 0; mask /= 2) value = fmaxf(value, __shfl_xor_sync(0xffffffffu, value, mask));
    return value;
}

/// The sum over all threads of the block, in every thread and in a fixed order.
__device__ inline float block_sum(float value) {
    SHARED_ARRAY(float, parts, WARP);
    value = warp_sum(value);
    __syncthreads();  // The parts of the sum before this one may still be read.
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = value;
    __syncthreads();
    float total = 0.0f;
    for (int warp = 0; warp < static_cast<int>(blockDim.x) / WARP; ++warp) total += parts[warp];
    return total;
}

/// The greatest over all threads of the block, in every thread.
__device__ inline float block_max(float value) {
    SHARED_ARRAY(float, parts, WARP);
    value = warp_max(value);
    __syncthreads();
    if (threadIdx.x % WARP == 0) parts[threadIdx.x / WARP] = value;
    __syncthreads();
    float greatest = parts[0];
    for (int warp = 1; warp < static_cast<int>(blockDim.x) / WARP; ++warp) greatest = fmaxf(greatest, parts[warp]);
    return greatest;
}
