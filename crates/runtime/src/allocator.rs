//! Memory of a program that forks a zygote and then works on many threads.
//!
//! The C library's allocator keeps small what is forked: a shim writes to a few pages of its heap and shares the others. mimalloc is
//! faster by far where pieces are made by one thread and let go of by another, but has a page for each size, and would double
//! what a shim weighs. So a process begins with the one, and goes over to the other once its zygote is forked. It asks for no huge
//! pages (`no_thp`): with them a daemon weighed twice as much, and was no faster.
//!
//! Invariant: a piece goes back to where it came from; mimalloc knows its own by their addresses.

#![allow(unsafe_code)]

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicBool, Ordering};

use libmimalloc_sys::{mi_is_in_heap_region, mi_option_set, mi_option_t};
use mimalloc::MiMalloc;

/// For how many milliseconds mimalloc keeps from the kernel what is free: `mi_option_purge_delay` of `mimalloc.h`.
const PURGE_DELAY: mi_option_t = 15;

/// With mimalloc's own, a second, a daemon with 100,000 Jobs keeps 30 MB more after it has started; without any it is slower by a
/// fifth.
const DELAY: std::ffi::c_long = 100;

/// Whether this process has gone over.
static MANY_THREADS: AtomicBool = AtomicBool::new(false);

/// The program's `#[global_allocator]`.
#[derive(Debug)]
pub struct Allocator;

/// From now on this process, which still has one thread and has forked its zygote, gets its memory from mimalloc.
pub fn expect_many_threads() {
    // SAFETY: an option may be set at any time.
    unsafe { mi_option_set(PURGE_DELAY, DELAY) };
    // Threads that are started later see it.
    MANY_THREADS.store(true, Ordering::Relaxed);
}

fn has_many_threads() -> bool {
    MANY_THREADS.load(Ordering::Relaxed)
}

/// Whether the piece is mimalloc's: none is before the process has gone over.
fn is_mimallocs(piece: *mut u8) -> bool {
    // SAFETY: any address may be asked about; it looks into a table of its own.
    has_many_threads() && unsafe { mi_is_in_heap_region(piece.cast()) }
}

// SAFETY: both are allocators, and each piece is let go of and changed by the one that it came from.
unsafe impl GlobalAlloc for Allocator {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { if has_many_threads() { MiMalloc.alloc(layout) } else { System.alloc(layout) } }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: as the caller promises.
        unsafe { if has_many_threads() { MiMalloc.alloc_zeroed(layout) } else { System.alloc_zeroed(layout) } }
    }

    unsafe fn dealloc(&self, piece: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises, and it is the one's that gave it.
        unsafe { if is_mimallocs(piece) { MiMalloc.dealloc(piece, layout) } else { System.dealloc(piece, layout) } }
    }

    unsafe fn realloc(&self, piece: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: as the caller promises, and it is the one's that gave it.
        unsafe {
            if is_mimallocs(piece) {
                MiMalloc.realloc(piece, layout, size)
            } else {
                System.realloc(piece, layout, size)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use libmimalloc_sys::mi_option_get;

    use super::*;

    /// Nothing else in this process uses it, so that others' tests stay as they are.
    #[test]
    fn pieces_go_back_to_where_they_came_from() {
        let layout = |size| Layout::from_size_align(size, 64).unwrap();
        let sizes = [1, 64, 5000, 300_000, 40 << 20];
        let fill = |piece: *mut u8, size: usize| {
            assert!(!piece.is_null());
            // SAFETY: it is that long.
            unsafe { piece.write_bytes(7, size) };
            piece
        };
        let holds = |piece: *mut u8, size: usize| {
            // SAFETY: it is that long.
            let bytes = unsafe { std::slice::from_raw_parts(piece, size) };
            bytes.iter().all(|byte| *byte == 7)
        };
        // SAFETY: each piece is let go of once, as it was asked for.
        unsafe {
            let early = sizes.map(|size| (fill(Allocator.alloc(layout(size)), size), size));
            assert!(early.iter().all(|(piece, _)| !is_mimallocs(*piece)));
            assert_eq!(mi_option_get(PURGE_DELAY), 1000, "its default, so it is the option that is meant");
            expect_many_threads();
            assert_eq!(mi_option_get(PURGE_DELAY), DELAY);
            let late = sizes.map(|size| (fill(Allocator.alloc(layout(size)), size), size));
            assert!(early.iter().all(|(piece, _)| !is_mimallocs(*piece)), "they stay what they were");
            assert!(late.iter().all(|(piece, _)| is_mimallocs(*piece)));
            for (piece, size) in early.into_iter().chain(late) {
                let own = is_mimallocs(piece);
                let grown = Allocator.realloc(piece, layout(size), size + 100_000);
                assert!(holds(grown, size) && is_mimallocs(grown) == own, "{size}");
                Allocator.dealloc(grown, layout(size + 100_000));
            }
            let zeroed = Allocator.alloc_zeroed(layout(4096));
            assert!(is_mimallocs(zeroed) && std::slice::from_raw_parts(zeroed, 4096).iter().all(|byte| *byte == 0));
            Allocator.dealloc(zeroed, layout(4096));
        }
    }
}
