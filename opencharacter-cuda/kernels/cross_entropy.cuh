#pragma once
#include "platform.cuh"

template <class T> struct CrossEntropyArguments {
    /// `[rows, vocabulary]`.
    const float* logits;
    const int* targets;
    /// How much each row's loss counts; null where only the losses are wanted.
    const float* weights;
    float* losses;
    /// `[rows, vocabulary]`: the gradient of the weighted sum; not written without weights.
    T* gradient;
    int vocabulary;
};

/// One block per row: the target's negative log-likelihood, and `weight * (softmax - one_hot(target))`.
template <class T> __device__ void cross_entropy(const CrossEntropyArguments<T>& a) {
    const long long row = blockIdx.x;
    const float* logits = a.logits + row * a.vocabulary;
    const bool packed = in_packs(logits, a.vocabulary, 0);
    // Each thread's greatest logit, and the sum of its exponentials relative to that.
    float greatest = -INFINITY, sum = 0.0f;
    for_columns<float>(a.vocabulary, packed, [&](int column, auto count) {
        const auto values = load<decltype(count)::VALUE>(logits + column);
        float here = greatest;
        for (float value : values.values) here = fmaxf(here, value);
        if (here > greatest) {
            sum *= expf(greatest - here);
            greatest = here;
        }
        for (float value : values.values) sum += expf(value - greatest);
    });
    const float maximum = block_max(greatest);
    // A thread without a logit has a sum of 0 and a greatest of -infinity.
    const float total = block_sum(sum > 0.0f ? sum * expf(greatest - maximum) : 0.0f);
    const float normaliser = maximum + logf(total);
    const int target = a.targets[row];
    if (threadIdx.x == 0) a.losses[row] = normaliser - logits[target];
    if (a.weights == nullptr) return;
    const float weight = a.weights[row];
    T* gradient = a.gradient + row * a.vocabulary;
    const bool packed_gradient = in_packs(gradient, a.vocabulary, 0);
    for_columns<T>(a.vocabulary, packed_gradient, [&](int column, auto count) {
        constexpr int N = decltype(count)::VALUE;
        Floats<N> values;
        for (int i = 0; i < N; ++i) {
            const float probability = expf(logits[column + i] - normaliser);
            values.values[i] = weight * (probability - (column + i == target ? 1.0f : 0.0f));
        }
        store<N>(gradient + column, values);
    });
}
