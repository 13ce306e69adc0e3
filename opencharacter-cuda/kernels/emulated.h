// CUDA's programming model on a CPU, as far as the kernels use it: enough to run every kernel's own source in tests.
//
// A block's threads are coroutines of one system thread. A thread runs until it waits at a barrier or ends, so a kernel
// that forgets a barrier reads what other threads have not written yet. What is written too early in one order of the
// threads is written too late in the other: tests run both orders and ask for the same bits.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>

#define __device__
#define __forceinline__ inline

namespace emulated {
struct Coordinates {
    unsigned x, y, z;
};

/// Memory that the threads of the running block share.
unsigned char* shared_memory();
/// Waits for the block's other threads.
void wait_for_block();
/// Waits for the warp's other threads.
void wait_for_warp();
/// Gives `value` to the warp, and returns that of lane `lane ^ mask`.
float exchange(float value, int mask);
/// Ends the process: the kernel does what a GPU would not.
[[noreturn]] void refuse(const char* reason);
}  // namespace emulated

extern thread_local emulated::Coordinates threadIdx, blockIdx, blockDim, gridDim;

#define SHARED_MEMORY(name) unsigned char* name = emulated::shared_memory()
#define SHARED_ARRAY(type, name, length) static thread_local type name[length]

inline void __syncthreads() { emulated::wait_for_block(); }
inline void __syncwarp() { emulated::wait_for_warp(); }
inline float __shfl_xor_sync(unsigned, float value, int mask) { return emulated::exchange(value, mask); }

/// Rounded to the nearest, ties to even, as the hardware does.
struct bf16 {
    uint16_t bits;

    float to_float() const {
        uint32_t wide = static_cast<uint32_t>(bits) << 16;
        float value;
        std::memcpy(&value, &wide, sizeof value);
        return value;
    }

    static bf16 from_float(float value) {
        uint32_t wide;
        std::memcpy(&wide, &value, sizeof wide);
        if (value != value) return {0x7fff};
        wide += 0x7fff + ((wide >> 16) & 1);
        return {static_cast<uint16_t>(wide >> 16)};
    }
};

/// `nvcuda::wmma`. A fragment's elements belong to the whole warp and are only ever moved as a whole, so lane 0 holds
/// them all; the other lanes' calls do nothing.
namespace tiles {
struct matrix_a;
struct matrix_b;
struct accumulator;
struct row_major;
struct col_major;
enum layout_t { mem_row_major, mem_col_major };

template <class Use, int M, int N, int K, class T, class Layout = void> struct fragment {
    float values[16][16];
};

inline bool is_first_lane() { return threadIdx.x % 32 == 0; }

template <class T> void check(const T* start, unsigned stride) {
    if (reinterpret_cast<uintptr_t>(start) % 32 != 0) emulated::refuse("a tile does not begin at 32 bytes");
    if (stride * sizeof(T) % 16 != 0) emulated::refuse("a tile's rows are not multiples of 16 bytes apart");
}

inline float widen(float value) { return value; }
inline float widen(bf16 value) { return value.to_float(); }

template <class Use, class T>
void load_matrix_sync(fragment<Use, 16, 16, 16, T, row_major>& tile, const T* start, unsigned stride) {
    check(start, stride);
    if (!is_first_lane()) return;
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 16; ++j) tile.values[i][j] = widen(start[i * stride + j]);
}

template <class Use, class T>
void load_matrix_sync(fragment<Use, 16, 16, 16, T, col_major>& tile, const T* start, unsigned stride) {
    check(start, stride);
    if (!is_first_lane()) return;
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 16; ++j) tile.values[i][j] = widen(start[j * stride + i]);
}

inline void fill_fragment(fragment<accumulator, 16, 16, 16, float>& tile, float value) {
    if (!is_first_lane()) return;
    for (auto& row : tile.values)
        for (float& element : row) element = value;
}

template <class A, class B>
void mma_sync(fragment<accumulator, 16, 16, 16, float>& out, const A& a, const B& b,
              const fragment<accumulator, 16, 16, 16, float>& c) {
    if (!is_first_lane()) return;
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 16; ++j) {
            float sum = c.values[i][j];
            for (int k = 0; k < 16; ++k) sum += a.values[i][k] * b.values[k][j];
            out.values[i][j] = sum;
        }
}

inline void store_matrix_sync(float* start, const fragment<accumulator, 16, 16, 16, float>& tile, unsigned stride,
                              layout_t layout) {
    check(start, stride);
    if (layout != mem_row_major) emulated::refuse("only row-major tiles are stored");
    if (!is_first_lane()) return;
    for (int i = 0; i < 16; ++i)
        for (int j = 0; j < 16; ++j) start[i * stride + j] = tile.values[i][j];
}
}  // namespace tiles
