//! How much memory a decoder asks for, counted, so that a bound on it can be asserted.
//!
//! Owns the allocator of every program that links this crate: the system's, with a count per thread. Does not own the
//! bounds; each target says its own.
#![expect(unsafe_code, reason = "an allocator is unsafe to implement; each call is handed on as it came")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Counting;

#[global_allocator]
static COUNTING: Counting = Counting;

thread_local! {
    /// Bytes that this thread has allocated and not freed, and the most that was. What one thread allocates and another
    /// one frees makes the first number wrong, but not the difference that [`most`] looks at.
    static HELD: Cell<(isize, isize)> = const { Cell::new((0, 0)) };
}

fn count(bytes: isize) {
    // A thread that ends has no counts any more.
    let _ = HELD.try_with(|cell| {
        let (held, most) = cell.get();
        let held = held + bytes;
        cell.set((held, most.max(held)));
    });
}

// SAFETY: every call goes to the system's allocator with the arguments it came with; counting allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller has promised.
        unsafe { System.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        // SAFETY: as the caller has promised.
        unsafe { System.alloc_zeroed(layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // The old block and the new one may both be there for a moment.
        count(size as isize);
        count(-(layout.size() as isize));
        // SAFETY: as the caller has promised.
        unsafe { System.realloc(pointer, layout, size) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        // SAFETY: as the caller has promised.
        unsafe { System.dealloc(pointer, layout) }
    }
}

/// What `work` comes to, and the most bytes that this thread held at any moment of it beyond what it held before.
pub fn most<T>(work: impl FnOnce() -> T) -> (T, usize) {
    let before = HELD.with(|cell| {
        let (held, _) = cell.get();
        cell.set((held, held));
        held
    });
    let done = work();
    let (_, most) = HELD.with(Cell::get);
    (done, usize::try_from(most - before).unwrap_or(0))
}

/// Does `work`, which must not hold more than `limit` bytes at any moment.
///
/// # Panics
/// When it does.
pub fn within<T>(limit: usize, what: &str, work: impl FnOnce() -> T) -> T {
    let (done, most) = most(work);
    assert!(most <= limit, "{what} held {most} bytes, more than {limit}");
    done
}
