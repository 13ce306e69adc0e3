//! The program's allocator.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    ptr,
};

use mimalloc::MiMalloc;

/// Small pieces come from mimalloc, large ones from the system.
///
/// Synthesis makes and frees some hundred strings per answer, on several threads: with glibc, whose threads share one
/// arena here ([`opencharacter_nn::keep_freed_memory`]), that was a fifth of its time. Tensors are the other way round:
/// mimalloc gives pieces of their size back to the kernel at once, which was tried and costs a fifth of a training
/// step. Who gave a piece is told by its size, which every call states.
struct BySize;

#[global_allocator]
static ALLOCATOR: BySize = BySize;

/// In bytes; the smallest that counts as large.
const LARGE: usize = 128 << 10;

fn is_large(size: usize) -> bool {
    size >= LARGE
}

// SAFETY: each piece is given back to the allocator that gave it: both are chosen by the size in its layout, which
// callers must state unchanged, and a piece whose size changes sides is moved from one to the other.
#[expect(unsafe_code, reason = "the trait is unsafe; see above for why it holds")]
unsafe impl GlobalAlloc for BySize {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promises are those of this call.
        unsafe { if is_large(layout.size()) { System.alloc(layout) } else { MiMalloc.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as above.
        unsafe { if is_large(layout.size()) { System.alloc_zeroed(layout) } else { MiMalloc.alloc_zeroed(layout) } }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        // SAFETY: as above.
        unsafe { if is_large(layout.size()) { System.dealloc(piece, layout) } else { MiMalloc.dealloc(piece, layout) } }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as above. On different sides, the caller promises that `size` makes a valid layout, the new piece is
        // another one than the old, and no more is copied than both hold.
        unsafe {
            match (is_large(layout.size()), is_large(size)) {
                (false, false) => return MiMalloc.realloc(piece, layout, size),
                (true, true) => return System.realloc(piece, layout, size),
                _ => {}
            }
            let moved = self.alloc(Layout::from_size_align_unchecked(size, layout.align()));
            if !moved.is_null() {
                ptr::copy_nonoverlapping(piece, moved, size.min(layout.size()));
                self.dealloc(piece, layout);
            }
            moved
        }
    }
}
