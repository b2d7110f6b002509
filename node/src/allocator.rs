//! The allocator of everything that runs as a node.

use mimalloc::MiMalloc;
use std::alloc::{GlobalAlloc, Layout};

/// mimalloc was measured faster than the system's allocator for many small buffers. Without huge pages: an idle node's few scattered
/// buffers would each keep 2 MiB resident (measured: 52 MiB instead of 28). [`MiMalloc`] asks for each buffer by its alignment, which takes
/// mimalloc's slow way for all that is not small.
#[derive(Debug)]
pub struct Allocator;

/// What each buffer of mimalloc is aligned to, whatever its size.
const NATURAL: usize = 8;

#[expect(unsafe_code, reason = "what allocates is unsafe by its interface")]
// SAFETY: all is left to mimalloc, by the pair of calls that belong together: whatever allocated a buffer, `mi_free` and
// `mi_realloc_aligned` take it. Where no alignment is told, the natural one is enough.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= NATURAL {
            // SAFETY: any size will do.
            return unsafe { libmimalloc_sys::mi_malloc(layout.size()) }.cast();
        }
        // SAFETY: the layout is the caller's.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the layout is the caller's.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, buffer: *mut u8, layout: Layout) {
        // SAFETY: the buffer is mimalloc's.
        unsafe { MiMalloc.dealloc(buffer, layout) }
    }

    unsafe fn realloc(&self, buffer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: the buffer is mimalloc's.
        unsafe { MiMalloc.realloc(buffer, layout, size) }
    }
}
