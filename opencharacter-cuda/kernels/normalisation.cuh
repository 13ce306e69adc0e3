#pragma once
#include "platform.cuh"

/// Where rows lie that are parts of wider ones: row `i` is part `i % parts` of the wide row `i / parts`.
__device__ inline long long row_start(int row, int parts, int width, int stride) {
    return static_cast<long long>(row / parts) * stride + static_cast<long long>(row % parts) * width;
}

template <class T> struct RmsNormArguments {
    const T* input;
    /// Added to the input first; null adds nothing.
    const T* update;
    /// Row `i` reads row `places[i]`; null reads row `i`.
    const int* places;
    const float* weight;
    /// Where the sum of input and update goes; null where nobody wants it.
    T* sum;
    T* out;
    float epsilon;
    int width, parts, input_stride, update_stride, sum_stride, out_stride;
};

/// One block per row: `x / sqrt(mean(x^2) + epsilon) * weight` of `x = input + update`.
template <class T> __device__ void rms_norm(const RmsNormArguments<T>& a) {
    const int row = blockIdx.x;
    const int place = a.places == nullptr ? row : a.places[row];
    const T* input = a.input + row_start(place, a.parts, a.width, a.input_stride);
    const T* update = a.update == nullptr ? nullptr : a.update + row_start(place, a.parts, a.width, a.update_stride);
    T* sum = a.sum == nullptr ? nullptr : a.sum + row_start(row, a.parts, a.width, a.sum_stride);
    T* out = a.out + row_start(row, a.parts, a.width, a.out_stride);
    const bool packed = in_packs(input, a.width, 0) && in_packs(out, a.width, 0) &&
                        (update == nullptr || in_packs(update, a.width, 0)) &&
                        (sum == nullptr || in_packs(sum, a.width, 0)) && in_packs(a.weight, a.width, 0);
    float squares = 0.0f;
    // The way back normalises the rounded sum again, so this one must be it too.
    auto read = [&](int column, auto count) {
        constexpr int N = decltype(count)::VALUE;
        Floats<N> x = load<N>(input + column);
        if (update != nullptr) {
            const Floats<N> more = load<N>(update + column);
            for (int i = 0; i < N; ++i) x.values[i] = to_float(from_float<T>(x.values[i] + more.values[i]));
        }
        return x;
    };
    for_columns<T>(a.width, packed, [&](int column, auto count) {
        const auto x = read(column, count);
        for (float value : x.values) squares += value * value;
    });
    const float inverse = 1.0f / sqrtf(block_sum(squares) / static_cast<float>(a.width) + a.epsilon);
    for_columns<T>(a.width, packed, [&](int column, auto count) {
        constexpr int N = decltype(count)::VALUE;
        Floats<N> x = read(column, count);
        if (sum != nullptr) store<N>(sum + column, x);
        for (int i = 0; i < N; ++i) x.values[i] *= inverse * a.weight[column + i];
        store<N>(out + column, x);
    });
}

template <class T> struct RmsNormBackwardArguments {
    const T* input;
    const float* weight;
    /// Of the norm's result.
    const T* gradient;
    /// Added to the result; null adds nothing.
    const T* residual;
    T* out;
    /// Each row's `1 / sqrt(mean(x^2) + epsilon)`, for the weight's gradient; null where nobody wants it.
    float* inverses;
    float epsilon;
    int width, parts, input_stride, gradient_stride, residual_stride, out_stride;
};

/// One block per row. With n features and r the inverse root: dx = r g w - x r^3 / n * sum(g w x). `out` may be
/// `gradient` or `residual`.
template <class T> __device__ void rms_norm_backward(const RmsNormBackwardArguments<T>& a) {
    const int row = blockIdx.x;
    const T* input = a.input + row_start(row, a.parts, a.width, a.input_stride);
    const T* gradient = a.gradient + row_start(row, a.parts, a.width, a.gradient_stride);
    const T* residual = a.residual == nullptr ? nullptr : a.residual + row_start(row, a.parts, a.width, a.residual_stride);
    T* out = a.out + row_start(row, a.parts, a.width, a.out_stride);
    const bool packed = in_packs(input, a.width, 0) && in_packs(gradient, a.width, 0) && in_packs(out, a.width, 0) &&
                        (residual == nullptr || in_packs(residual, a.width, 0));
    float squares = 0.0f, products = 0.0f;
    for_columns<T>(a.width, packed, [&](int column, auto count) {
        constexpr int N = decltype(count)::VALUE;
        const Floats<N> x = load<N>(input + column), g = load<N>(gradient + column);
        for (int i = 0; i < N; ++i) {
            squares += x.values[i] * x.values[i];
            products += x.values[i] * g.values[i] * a.weight[column + i];
        }
    });
    const float features = static_cast<float>(a.width);
    const float inverse = 1.0f / sqrtf(block_sum(squares) / features + a.epsilon);
    const float shared = block_sum(products) * inverse * inverse * inverse / features;
    if (a.inverses != nullptr && threadIdx.x == 0) a.inverses[row] = inverse;
    for_columns<T>(a.width, packed, [&](int column, auto count) {
        constexpr int N = decltype(count)::VALUE;
        const Floats<N> x = load<N>(input + column);
        Floats<N> g = load<N>(gradient + column);
        for (int i = 0; i < N; ++i) g.values[i] = inverse * g.values[i] * a.weight[column + i] - x.values[i] * shared;
        if (residual != nullptr) {
            const Floats<N> more = load<N>(residual + column);
            for (int i = 0; i < N; ++i) g.values[i] += more.values[i];
        }
        store<N>(out + column, g);
    });
}

template <class T> struct NormWeightGradientArguments {
    const T* input;
    const T* gradient;
    const float* inverses;
    /// `[slices, width]`: a sum over each slice of the rows.
    float* sums;
    int rows, width, parts, input_stride, gradient_stride;
};

/// The gradient of a norm's weight, sum(x r g) over the rows: a block takes 32 columns and every `gridDim.y`-th run of
/// rows. Its warps take rows in turn.
template <class T> __device__ void norm_weight_gradient(const NormWeightGradientArguments<T>& a) {
    SHARED_ARRAY(float, parts, 256);
    const int column = blockIdx.x * WARP + threadIdx.x % WARP;
    const int lanes = blockDim.x / WARP, lane = threadIdx.x / WARP;
    float sum = 0.0f;
    if (column < a.width) {
        for (int row = blockIdx.y * lanes + lane; row < a.rows; row += gridDim.y * lanes) {
            const float x = to_float(a.input[row_start(row, a.parts, a.width, a.input_stride) + column]);
            const float g = to_float(a.gradient[row_start(row, a.parts, a.width, a.gradient_stride) + column]);
            sum += x * a.inverses[row] * g;
        }
    }
    parts[threadIdx.x] = sum;
    __syncthreads();
    if (lane == 0 && column < a.width) {
        float total = 0.0f;
        for (int i = 0; i < lanes; ++i) total += parts[i * WARP + threadIdx.x];
        a.sums[static_cast<long long>(blockIdx.y) * a.width + column] = total;
    }
}

template <class T> struct AddSlicesArguments {
    const float* slices;
    float* sums;
    int count, width;
};

/// `sums[column] += ` the sum of `slices[..][column]`.
template <class T> __device__ void add_slices(const AddSlicesArguments<T>& a) {
    for (long long column = first_place(); column < a.width; column += place_step()) {
        float total = 0.0f;
        for (int slice = 0; slice < a.count; ++slice) total += a.slices[static_cast<long long>(slice) * a.width + column];
        a.sums[column] += total;
    }
}
