#pragma once
#include "platform.cuh"

/// Uniform in [0, 1) with 24 bits, a pure function of key and place: SplitMix64 in counter mode, the same bits as
/// `keyed_uniform` of opencharacter-nn.
__device__ inline float keyed_uniform(unsigned long long key, unsigned long long place) {
    unsigned long long z = key + (place + 1) * 0x9E3779B97F4A7C15ull;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9ull;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBull;
    z ^= z >> 31;
    return static_cast<float>(static_cast<unsigned>(z >> 40)) / static_cast<float>(1u << 24);
}

template <class T> struct DropoutArguments {
    const T* input;
    T* out;
    unsigned long long key;
    float probability;
    int rows, width, input_stride, out_stride;
    /// Adds to `out` where it is not 0.
    int accumulate;
};

/// Zeroes a share of the elements and scales the others up; which ones follows from the key and the place alone.
template <class T> __device__ void dropout(const DropoutArguments<T>& a) {
    const float keep = 1.0f / (1.0f - a.probability);
    const long long elements = static_cast<long long>(a.rows) * a.width;
    for (long long place = first_place(); place < elements; place += place_step()) {
        const long long row = place / a.width, column = place % a.width;
        const bool kept = keyed_uniform(a.key, place) >= a.probability;
        float value = kept ? to_float(a.input[row * a.input_stride + column]) * keep : 0.0f;
        T* target = a.out + row * a.out_stride + column;
        if (a.accumulate) value += to_float(*target);
        *target = from_float<T>(value);
    }
}
