#pragma once
#include "random.cuh"

template <class T> struct EmbedArguments {
    const T* table;
    const int* tokens;
    /// The greatest noise on each token's features (NEFTune); null adds none.
    const float* noise;
    T* out;
    unsigned long long key;
    int width;
};

/// One block per token: its row of the table, with noise.
template <class T> __device__ void embed(const EmbedArguments<T>& a) {
    const long long token = blockIdx.x;
    const T* source = a.table + static_cast<long long>(a.tokens[token]) * a.width;
    T* target = a.out + token * a.width;
    const float bound = a.noise == nullptr ? 0.0f : a.noise[token];
    for (int column = threadIdx.x; column < a.width; column += blockDim.x) {
        float value = to_float(source[column]);
        if (bound > 0.0f) value += bound * (2.0f * keyed_uniform(a.key, token * a.width + column) - 1.0f);
        target[column] = from_float<T>(value);
    }
}

template <class T> struct EmbedBackwardArguments {
    const T* gradient;
    /// Each token of the batch once.
    const int* tokens;
    /// `places[starts[i]..starts[i + 1]]` are the rows of token `tokens[i]`.
    const int* starts;
    const int* places;
    /// `[vocabulary, width]`.
    float* sums;
    int width, gradient_stride;
};

/// One block per distinct token: its rows are added in their order, so the sum's bits are always the same.
template <class T> __device__ void embed_backward(const EmbedBackwardArguments<T>& a) {
    const int first = a.starts[blockIdx.x], last = a.starts[blockIdx.x + 1];
    float* target = a.sums + static_cast<long long>(a.tokens[blockIdx.x]) * a.width;
    for (int column = threadIdx.x; column < a.width; column += blockDim.x) {
        float sum = 0.0f;
        for (int i = first; i < last; ++i)
            sum += to_float(a.gradient[static_cast<long long>(a.places[i]) * a.gradient_stride + column]);
        target[column] += sum;
    }
}

template <class T> struct ScatterRowsArguments {
    const T* input;
    const int* places;
    T* out;
    int width, input_stride, out_stride;
};

/// One block per row: row `i` becomes row `places[i]`.
template <class T> __device__ void scatter_rows(const ScatterRowsArguments<T>& a) {
    const T* source = a.input + static_cast<long long>(blockIdx.x) * a.input_stride;
    T* target = a.out + static_cast<long long>(a.places[blockIdx.x]) * a.out_stride;
    for (int column = threadIdx.x; column < a.width; column += blockDim.x) target[column] = source[column];
}

template <class T> struct BiasColumnsArguments {
    T* out;
    int rows, stride, first, count;
};

/// Columns `first..first + count` of each row become 1, 0, 0, ...: a weight's column there is a bias.
template <class T> __device__ void bias_columns(const BiasColumnsArguments<T>& a) {
    const long long elements = static_cast<long long>(a.rows) * a.count;
    for (long long place = first_place(); place < elements; place += place_step()) {
        const long long row = place / a.count, column = place % a.count;
        a.out[row * a.stride + a.first + column] = from_float<T>(column == 0 ? 1.0f : 0.0f);
    }
}
