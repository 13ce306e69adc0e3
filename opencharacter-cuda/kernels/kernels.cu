// All kernels, under the names by which the host finds them: `NAME_bf16`, and in the emulation `NAME_f32` too.
//
// A kernel takes one structure, which `src/operations` lays out alike.

#include "attention.cuh"
#include "cross_entropy.cuh"
#include "embedding.cuh"
#include "normalisation.cuh"
#include "optimizer.cuh"
#include "random.cuh"
#include "rotary.cuh"
#include "swiglu.cuh"

/// KERNEL(name, function, arguments, most threads in a block, whether threads wait for each other)
#define FOR_EACH_KERNEL(KERNEL)                                                                                 \
    KERNEL(embed, embed<T>, EmbedArguments, 256, false)                                                         \
    KERNEL(embed_backward, embed_backward<T>, EmbedBackwardArguments, 256, false)                               \
    KERNEL(scatter_rows, scatter_rows<T>, ScatterRowsArguments, 256, false)                                     \
    KERNEL(bias_columns, bias_columns<T>, BiasColumnsArguments, 256, false)                                     \
    KERNEL(dropout, dropout<T>, DropoutArguments, 256, false)                                                   \
    KERNEL(rms_norm, rms_norm<T>, RmsNormArguments, 256, true)                                                  \
    KERNEL(rms_norm_backward, rms_norm_backward<T>, RmsNormBackwardArguments, 256, true)                        \
    KERNEL(norm_weight_gradient, norm_weight_gradient<T>, NormWeightGradientArguments, 256, true)               \
    KERNEL(add_slices, add_slices<T>, AddSlicesArguments, 256, false)                                           \
    KERNEL(rotation_table, rotation_table<T>, RotationTableArguments, 256, false)                               \
    KERNEL(rotate, rotate<T>, RotateArguments, 256, false)                                                      \
    KERNEL(swiglu, swiglu<T>, SwigluArguments, 256, false)                                                      \
    KERNEL(swiglu_backward, swiglu_backward<T>, SwigluArguments, 256, false)                                    \
    KERNEL(cross_entropy, cross_entropy<T>, CrossEntropyArguments, 512, true)                                   \
    KERNEL(squared_norm, squared_norm<T>, SquaredNormArguments, 256, true)                                      \
    KERNEL(adamw, adamw<T>, AdamwArguments, 256, false)                                                         \
    KERNEL(refresh_working, refresh_working<T>, AdamwArguments, 256, false)                                     \
    KERNEL(attention_deltas, attention_deltas<T>, AttentionArguments, 256, true)                                \
    KERNEL(attention_forward_64, (attention_forward<T, 64>), AttentionArguments, 128, true)                     \
    KERNEL(attention_forward_128, (attention_forward<T, 128>), AttentionArguments, 128, true)                   \
    KERNEL(attention_key_value_gradients_64, (attention_key_value_gradients<T, 64>), AttentionArguments, 128, true)   \
    KERNEL(attention_key_value_gradients_128, (attention_key_value_gradients<T, 128>), AttentionArguments, 128, true) \
    KERNEL(attention_query_gradients_64, (attention_query_gradients<T, 64>), AttentionArguments, 128, true)     \
    KERNEL(attention_query_gradients_128, (attention_query_gradients<T, 128>), AttentionArguments, 128, true)

#ifdef __CUDACC__
#define DEFINE(name, function, Arguments, threads, cooperative)                              \
    extern "C" __global__ void __launch_bounds__(threads)                                    \
        name##_bf16(const __grid_constant__ Arguments<bf16> arguments) {                     \
        using T = bf16;                                                                      \
        function(arguments);                                                                 \
    }
FOR_EACH_KERNEL(DEFINE)
#else
#include "emulated.inc"

template <class T> struct Table {
#define DEFINE(name, function, Arguments, threads, cooperative) \
    static void name##_run(const void* arguments) { (function)(*static_cast<const Arguments<T>*>(arguments)); }
    FOR_EACH_KERNEL(DEFINE)
};

static const emulated::Entry ENTRIES[] = {
#define F32(name, function, Arguments, threads, cooperative) {#name "_f32", Table<float>::name##_run, cooperative},
#define BF16(name, function, Arguments, threads, cooperative) {#name "_bf16", Table<bf16>::name##_run, cooperative},
    FOR_EACH_KERNEL(F32) FOR_EACH_KERNEL(BF16)};

/// Runs the kernel called `name`. 0 is success; 1: no such kernel; 2: its threads wait for each other for ever; 3: it
/// writes behind its shared memory.
extern "C" int opencharacter_emulated_launch(const char* name, const unsigned* grid, unsigned threads,
                                             size_t shared_bytes, const void* arguments, bool reversed) {
    for (const emulated::Entry& entry : ENTRIES)
        if (std::strcmp(entry.name, name) == 0)
            return emulated::launch(entry, grid, threads, shared_bytes, arguments, reversed);
    return 1;
}
#endif
