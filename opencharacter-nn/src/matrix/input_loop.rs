//! The loop over inputs of the tiles in assembly.

/// Assembly that multiplies by `fours` times four inputs and by `ones` more, 64 bytes of a panel each: `$four` and `$one`
/// multiply, `$advance` and `$advance_one` move every address but `{panel}`'s.
macro_rules! over_inputs {
    ([$($four:expr),*], [$($advance:literal),*], $one:expr, [$($advance_one:literal),*]) => {
        concat!(
            "test {fours}, {fours}\n",
            "jz 3f\n",
            "2:\n",
            $($four,)*
            $($advance, "\n",)*
            "add {panel}, 256\n",
            "sub {fours}, 1\n",
            "jnz 2b\n",
            "3:\n",
            "test {ones}, {ones}\n",
            "jz 5f\n",
            "4:\n",
            $one,
            $($advance_one, "\n",)*
            "add {panel}, 64\n",
            "sub {ones}, 1\n",
            "jnz 4b\n",
            "5:\n",
        )
    };
}

pub(super) use over_inputs;
